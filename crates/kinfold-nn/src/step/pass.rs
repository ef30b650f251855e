//! The step on the CPU: one pass over weight, gradient and what is kept, block by block, the blocks
//! of a large weight on all threads. Every number is made by the same operations in the same order
//! as in `operations.rs`, whichever thread makes it.

use super::{ADAM, Moment, Rule, ratio};
use crate::ops::{Buffer, contiguous};
use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use rayon::prelude::*;

/// Numbers of each tensor that are done at a time; the blocks of all of them fit into the
/// second-level cache.
const BLOCK: usize = 8192;
/// Numbers that are looked at together for whether there is anything to do; a part of a block.
const ROW: usize = 64;
/// Blocks from which on waking other threads is worth it: alone, one thread takes half a millisecond
/// for these.
const MANY: usize = 64;

/// Tensors of this length, f32, on Flex.
pub(super) fn step(
    rule: &Rule,
    Moment { rate, step, scale }: Moment,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    kept: Vec<Tensor<1>>,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let [n] = weight.dims();
    let mut weight = primitive(weight);
    let gradient = primitive(gradient);
    let mut kept: Vec<FlexTensor> = kept.into_iter().map(|x| own(primitive(x))).collect();
    // Somebody may hold the weight as it was, for whom it must stay.
    let old = (!is_own(&weight)).then(|| {
        let new = contiguous(Buffer::any(n), [n]);
        std::mem::replace(&mut weight, new)
    });
    let old = old.as_ref().map(numbers);
    let g = numbers(&gradient);
    let own: Vec<&mut [f32]> = kept.iter_mut().map(FlexTensor::storage_mut).collect();
    let w = weight.storage_mut::<f32>();
    // What does not change from number to number is rounded once, as Burn's scalars are.
    let r = rate as f32;
    match *rule {
        Rule::AdamW { weight_decay } => {
            let (beta_1, beta_2, epsilon) = ADAM;
            let stays = (1.0 - rate * f64::from(weight_decay)) as f32;
            let of_first = 1.0 - beta_1.powi(step as i32);
            let of_second = 1.0 - beta_2.powi(step as i32);
            run(w, old, g, own, |w, g, kept| {
                let [first, second] = kept else { return };
                let moments = first.chunks_mut(ROW).zip(second.chunks_mut(ROW));
                for ((w, g), (first, second)) in w.chunks_mut(ROW).zip(g.chunks(ROW)).zip(moments) {
                    // Rows of a table that nothing has touched yet stay as they are, to the bit.
                    if stays == 1.0 && [g, first, second].into_iter().all(is_zero) {
                        continue;
                    }
                    for (((w, g), first), second) in w.iter_mut().zip(g).zip(first).zip(second) {
                        let g = g * scale;
                        *first = *first * beta_1 + g * (1.0 - beta_1);
                        *second = *second * beta_2 + g * g * (1.0 - beta_2);
                        let along = *first / of_first / ((*second / of_second).sqrt() + epsilon);
                        *w = *w * stays - along * r;
                    }
                }
            });
        }
        Rule::Sgd { momentum, weight_decay } => run(w, old, g, own, |w, g, kept| {
            let [velocity] = kept else { return };
            for ((w, g), v) in w.iter_mut().zip(g).zip(&mut **velocity) {
                *v = (*w * weight_decay + g * scale) + *v * momentum;
                *w -= *v * r;
            }
        }),
        Rule::Lars { momentum, weight_decay, trust } => {
            let now: &[f32] = old.unwrap_or(w);
            let ratio = trust.map_or(1.0, |trust| {
                let decayed = squares(g, Some(now), |g, w| w * weight_decay + g * scale);
                ratio(trust, squares(now, None, |w, _| w), decayed)
            });
            let r = (rate * ratio) as f32;
            run(w, old, g, own, |w, g, kept| {
                let [velocity] = kept else { return };
                for ((w, g), v) in w.iter_mut().zip(g).zip(&mut **velocity) {
                    *v = *v * momentum + (*w * weight_decay + g * scale) * r;
                    *w -= *v;
                }
            });
        }
    }
    (tensor(weight), kept.into_iter().map(tensor).collect())
}

/// Whether all numbers are 0, and none of them −0.
fn is_zero(numbers: &[f32]) -> bool {
    numbers.iter().fold(0, |bits, x| bits | x.to_bits()) == 0
}

/// So many numbers of each.
struct Block<'a> {
    weight: &'a mut [f32],
    old: Option<&'a [f32]>,
    gradient: &'a [f32],
    kept: Vec<&'a mut [f32]>,
}

/// Lets `move_on` do every block. Where there are old weights, the new ones begin as they are.
fn run(
    weight: &mut [f32],
    old: Option<&[f32]>,
    gradient: &[f32],
    kept: Vec<&mut [f32]>,
    move_on: impl Fn(&mut [f32], &[f32], &mut [&mut [f32]]) + Sync,
) {
    let mut kept: Vec<_> = kept.into_iter().map(|x| x.chunks_mut(BLOCK)).collect();
    let mut old = old.map(|old| old.chunks(BLOCK));
    let blocks: Vec<Block> = weight
        .chunks_mut(BLOCK)
        .zip(gradient.chunks(BLOCK))
        .map(|(weight, gradient)| Block {
            weight,
            old: old.as_mut().and_then(Iterator::next),
            gradient,
            kept: kept.iter_mut().filter_map(Iterator::next).collect(),
        })
        .collect();
    let run = |Block { weight, old, gradient, mut kept }: Block| {
        if let Some(old) = old {
            weight.copy_from_slice(old);
        }
        move_on(weight, gradient, &mut kept);
    };
    if blocks.len() < MANY {
        blocks.into_iter().for_each(run);
    } else {
        blocks.into_par_iter().for_each(run);
    }
}

pub(super) fn squares_of(x: Tensor<1>) -> f64 {
    squares(numbers(&primitive(x)), None, |x, _| x)
}

/// The sum over f(x, y)², y being 0 where there is none, in f64: block by block, in the order of the
/// blocks.
fn squares(x: &[f32], y: Option<&[f32]>, f: impl Fn(f32, f32) -> f32 + Sync) -> f64 {
    const LANES: usize = 8;
    let block = |x: &[f32], y: Option<&[f32]>| {
        let mut sums = [0.0f64; LANES];
        for (i, x) in x.chunks(LANES).enumerate() {
            for (lane, &x) in x.iter().enumerate() {
                let z = f64::from(f(x, y.map_or(0.0, |y| y[LANES * i + lane])));
                sums[lane] += z * z;
            }
        }
        sums.iter().sum::<f64>()
    };
    let of = |i: usize| {
        let range = i * BLOCK..x.len().min((i + 1) * BLOCK);
        block(&x[range.clone()], y.map(|y| &y[range]))
    };
    let blocks = x.len().div_ceil(BLOCK);
    if blocks < MANY {
        return (0..blocks).map(of).sum();
    }
    (0..blocks).into_par_iter().map(of).collect::<Vec<_>>().into_iter().sum()
}

fn tensor(x: FlexTensor) -> Tensor<1> {
    Tensor::from_primitive::<Flex>(x)
}

/// The primitive of a tensor on Flex, its numbers side by side.
fn primitive(x: Tensor<1>) -> FlexTensor {
    let x = x.try_into_primitive::<Flex>().expect("tensors of the pass are on Flex");
    if x.as_slice::<f32>().is_some() { x } else { x.to_contiguous() }
}

fn numbers(x: &FlexTensor) -> &[f32] {
    x.as_slice().unwrap_or_default()
}

/// Whether nobody else holds these numbers, and nothing lies beside them.
fn is_own(x: &FlexTensor) -> bool {
    x.is_unique() && x.storage::<f32>().len() == numbers(x).len()
}

/// These numbers, or a copy where they are not our own.
fn own(x: FlexTensor) -> FlexTensor {
    if is_own(&x) {
        return x;
    }
    let copy = numbers(&x).to_vec();
    let layout = Layout::contiguous(Shape::new([copy.len()]));
    FlexTensor::new(Bytes::from_elems(copy), layout, DType::F32)
}
