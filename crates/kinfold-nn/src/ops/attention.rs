//! Scaled dot-product attention of many heads: `softmax(q · kᵀ / √width) · v`, without a mask.
//!
//! A thread takes a sequence, and of it a head and some queries at a time: their weights for all
//! keys are a tile that stays in its cache. The backward pass computes the tile again, from the
//! logarithm of each query's sum.

use super::matmul::{Matrix, Out, multiply};
use super::memory::buffer::Buffer;
use super::memory::loops::{exp, largest, sum};
use super::memory::tensor::{contiguous, is_ours, numbers};
use super::memory::vector::vectorized;
use super::operation::{Operation, apply};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

/// Numbers of a tile, about.
const TILE: usize = 1 << 15;
/// Queries of a tile, at least.
const QUERIES: usize = 16;

/// Attention of queries, keys and values, each `[batch, heads, tokens, width]`, to as many rows.
///
/// # Panics
/// When the three are not of one shape.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let dims = q.dims();
    assert!(
        k.dims() == dims && v.dims() == dims,
        "queries, keys and values must have one shape, but have {dims:?}, {:?} and {:?}",
        k.dims(),
        v.dims()
    );
    if is_ours(&q) && is_ours(&k) && is_ours(&v) {
        return apply(Attention, [q, k, v].map(Tensor::into_dispatch));
    }
    let scale = (dims[3] as f64).sqrt().recip();
    softmax(q.matmul(k.swap_dims(2, 3)) * scale, 3).matmul(v)
}

/// Attention of what one linear layer gives, `[batch, tokens, 3 · heads · width]`: first the queries
/// of every head, then the keys, then the values. Output: `[batch, tokens, heads · width]`, what
/// the layer behind it takes. Nothing is copied or moved in between.
///
/// # Panics
/// When the last axis is not a multiple of `3 · heads`.
pub fn attention_packed(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, last] = qkv.dims();
    assert!(
        heads > 0 && last % (3 * heads) == 0,
        "the last axis is {last} long but must be a multiple of 3 · {heads} heads"
    );
    if is_ours(&qkv) {
        return apply(PackedAttention { heads }, [qkv.into_dispatch()]);
    }
    let width = last / (3 * heads);
    let qkv = qkv.reshape([batch, tokens, 3, heads, width]).permute([2, 0, 3, 1, 4]);
    let one = |i: usize| qkv.clone().narrow(0, i, 1).reshape([batch, heads, tokens, width]);
    attention(one(0), one(1), one(2)).swap_dims(1, 2).reshape([batch, tokens, heads * width])
}

/// Of queries, keys and values, `[batch, heads, tokens, width]` each.
#[derive(Clone, Copy, Debug)]
struct Attention;

impl Operation<3> for Attention {
    type Saved = Saved;

    fn forward(&self, operands: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        Heads::apart(operands).attend()
    }

    fn backward(saved: Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let heads = saved.heads.heads;
        let gradients = saved.gradients(gradient);
        [0, 1, 2].map(|i| Some(gradients.narrow(1, i * heads, heads)))
    }
}

/// Of all three in one tensor, `[batch, tokens, 3 · heads · width]`.
#[derive(Clone, Copy, Debug)]
struct PackedAttention {
    heads: usize,
}

impl Operation<1> for PackedAttention {
    type Saved = Saved;

    fn forward(&self, [qkv]: [FlexTensor; 1]) -> (FlexTensor, Saved) {
        Heads::packed(qkv, self.heads).attend()
    }

    fn backward(saved: Saved, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(saved.gradients(gradient))]
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    heads: Heads,
    out: FlexTensor,
    /// Of each query, the logarithm of the sum of exponentials.
    logarithms: Vec<f32>,
}

impl Saved {
    fn gradients(&self, gradient: FlexTensor) -> FlexTensor {
        let (out, gradient) = (self.out.to_contiguous(), gradient.to_contiguous());
        self.heads.backward(numbers(&out), &self.logarithms, numbers(&gradient))
    }
}

/// How far apart sequences, heads and tokens lie; a token's numbers follow one another.
#[derive(Clone, Copy, Debug)]
struct Strides {
    sequence: usize,
    head: usize,
    token: usize,
}

/// Queries, keys and values, and where they lie.
#[derive(Clone, Debug)]
struct Heads {
    /// Of queries, keys and values: one tensor, or three.
    tensors: Vec<FlexTensor>,
    /// In its tensor, the first number of the queries, keys and values.
    first: [usize; 3],
    strides: Strides,
    batch: usize,
    heads: usize,
    tokens: usize,
    width: usize,
}

impl Heads {
    /// Each `[batch, heads, tokens, width]`.
    fn apart(tensors: [FlexTensor; 3]) -> Self {
        let tensors: Vec<_> = tensors.iter().map(FlexTensor::to_contiguous).collect();
        let dims = tensors[0].layout().shape().clone();
        let [batch, heads, tokens, width] = dims.dims();
        let strides =
            Strides { sequence: heads * tokens * width, head: tokens * width, token: width };
        Self { tensors, first: [0; 3], strides, batch, heads, tokens, width }
    }

    /// `[batch, tokens, 3 · heads · width]`.
    fn packed(qkv: FlexTensor, heads: usize) -> Self {
        let [batch, tokens, last] = qkv.layout().shape().dims();
        let (tensors, width) = (vec![qkv.to_contiguous()], last / (3 * heads));
        let strides = Strides { sequence: tokens * last, head: width, token: last };
        let first = [0, heads * width, 2 * heads * width];
        Self { tensors, first, strides, batch, heads, tokens, width }
    }

    fn is_packed(&self) -> bool {
        self.tensors.len() == 1
    }

    /// Where the output lies.
    fn of_out(&self) -> Strides {
        let Self { heads, tokens, width, .. } = *self;
        let sequence = heads * tokens * width;
        match self.is_packed() {
            true => Strides { sequence, head: width, token: heads * width },
            false => Strides { sequence, head: tokens * width, token: width },
        }
    }

    /// Queries of a tile.
    fn block(&self) -> usize {
        (TILE / self.tokens).clamp(QUERIES, self.tokens.max(QUERIES))
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }

    /// The rows of queries (0), keys (1) or values (2) of a head.
    fn rows(&self, which: usize, sequence: usize, head: usize) -> Matrix<'_> {
        let tensor = if self.is_packed() { &self.tensors[0] } else { &self.tensors[which] };
        let first = self.first[which] + sequence * self.strides.sequence + head * self.strides.head;
        self.matrix(&numbers(tensor)[first..], self.strides.token)
    }

    fn matrix<'a>(&self, data: &'a [f32], token: usize) -> Matrix<'a> {
        Matrix { data, rows: self.tokens, columns: self.width, down: token, right: 1 }
    }

    fn attend(self) -> (FlexTensor, Saved) {
        let (out, logarithms) = self.forward();
        (out.clone(), Saved { heads: self, out, logarithms })
    }

    /// The output, and the logarithms of the sums of exponentials, `[batch, heads, tokens]`.
    fn forward(&self) -> (FlexTensor, Vec<f32>) {
        let Self { batch, heads, tokens, width, .. } = *self;
        let (at, scale, block) = (self.of_out(), self.scale(), self.block());
        let mut out = Buffer::any(batch * at.sequence);
        let mut logarithms = vec![0.0; batch * heads * tokens];
        let sequences = out.par_chunks_mut(at.sequence);
        let sequences = sequences.zip(logarithms.par_chunks_mut(heads * tokens));
        let tile = || vec![0.0; block.min(tokens) * tokens];
        sequences.enumerate().for_each_init(tile, |tile, (sequence, (out, logarithms))| {
            for (head, logarithms) in logarithms.chunks_mut(tokens).enumerate() {
                let [q, k, v] = [0, 1, 2].map(|which| self.rows(which, sequence, head));
                for (i, logarithms) in logarithms.chunks_mut(block).enumerate() {
                    let from = i * block;
                    let tile = &mut tile[..logarithms.len() * tokens];
                    let q = some(q, from, logarithms.len());
                    multiply(
                        Out { data: tile, down: tokens, add: false },
                        q,
                        k.transposed(),
                        scale,
                    );
                    vectorized(
                        #[inline(always)]
                        || {
                            for (row, logarithm) in tile.chunks_exact_mut(tokens).zip(logarithms) {
                                *logarithm = to_weights(row);
                            }
                        },
                    );
                    let out = &mut out[head * at.head + from * at.token..];
                    let weights = Matrix::new(tile, q.rows, tokens);
                    multiply(Out { data: out, down: at.token, add: false }, weights, v, 1.0);
                }
            }
        });
        let out = match self.is_packed() {
            true => contiguous(out, [batch, tokens, heads * width]),
            false => contiguous(out, [batch, heads, tokens, width]),
        };
        (out, logarithms)
    }

    /// The gradients by queries, keys and values, laid out as these are; those of three tensors
    /// are one, `[batch, 3 · heads, tokens, width]`.
    fn backward(&self, out: &[f32], logarithms: &[f32], upstream: &[f32]) -> FlexTensor {
        let Self { batch, heads, tokens, width, .. } = *self;
        let (at, block) = (self.of_out(), self.block());
        let sequence = 3 * at.sequence;
        let (first, strides) = match self.is_packed() {
            true => (self.first, self.strides),
            false => ([0, 1, 2].map(|i| i * at.sequence), Strides { sequence, ..self.strides }),
        };
        let mut gradients = Buffer::any(batch * sequence);
        let tiles =
            || (vec![0.0; block.min(tokens) * tokens], vec![0.0; block.min(tokens) * tokens]);
        let sequences = gradients.par_chunks_mut(sequence).enumerate();
        sequences.for_each_init(tiles, |(weights, of_scores), (sequence, gradients)| {
            for head in 0..heads {
                let operands = [0, 1, 2].map(|which| self.rows(which, sequence, head));
                let start = sequence * at.sequence + head * at.head;
                let out = self.matrix(&out[start..], at.token);
                let upstream = self.matrix(&upstream[start..], at.token);
                let logarithms = &logarithms[(sequence * heads + head) * tokens..][..tokens];
                let places = first.map(|first| first + head * strides.head);
                for (i, logarithms) in logarithms.chunks(block).enumerate() {
                    let (from, rows) = (i * block, logarithms.len());
                    self.of_block(
                        &Block { operands, out, upstream, logarithms, from },
                        (&mut weights[..rows * tokens], &mut of_scores[..rows * tokens]),
                        |which, row, left, right, scale| {
                            let add = which != 0 && from > 0;
                            let data = &mut gradients[places[which] + row * strides.token..];
                            let out = Out { data, down: strides.token, add };
                            multiply(out, left, right, scale);
                        },
                    );
                }
            }
        });
        match self.is_packed() {
            true => contiguous(gradients, [batch, tokens, 3 * heads * width]),
            false => contiguous(gradients, [batch, 3 * heads, tokens, width]),
        }
    }

    /// What the queries of a block give to the gradients, as products: of which, from which row
    /// on, of which matrices, times what.
    fn of_block(
        &self,
        block: &Block<'_>,
        (weights, of_scores): (&mut [f32], &mut [f32]),
        mut give: impl FnMut(usize, usize, Matrix<'_>, Matrix<'_>, f32),
    ) {
        let (tokens, scale) = (self.tokens, self.scale());
        let Block { operands: [q, k, v], logarithms, from, .. } = *block;
        let rows = logarithms.len();
        let [q, out, upstream] = [q, block.out, block.upstream].map(|x| some(x, from, rows));
        let tile = |data| Out { data, down: tokens, add: false };
        multiply(tile(&mut *weights), q, k.transposed(), scale);
        multiply(tile(&mut *of_scores), upstream, v.transposed(), 1.0);
        vectorized(
            #[inline(always)]
            || {
                let tiles =
                    weights.chunks_exact_mut(tokens).zip(of_scores.chunks_exact_mut(tokens));
                for (row, (weights, of_scores)) in tiles.enumerate() {
                    let upstream = &upstream.data[row * upstream.down..][..self.width];
                    let out = &out.data[row * out.down..][..self.width];
                    let both = sum(upstream, out, |g, out| g * out);
                    for i in 0..tokens {
                        weights[i] = exp(weights[i] - logarithms[row]);
                        of_scores[i] = weights[i] * (of_scores[i] - both);
                    }
                }
            },
        );
        let weights = Matrix::new(weights, rows, tokens);
        let of_scores = Matrix::new(of_scores, rows, tokens);
        give(2, 0, weights.transposed(), upstream, 1.0);
        give(0, from, of_scores, k, scale);
        give(1, 0, of_scores.transposed(), q, scale);
    }
}

/// Some queries of a head, and what there is of the whole head.
struct Block<'a> {
    operands: [Matrix<'a>; 3],
    out: Matrix<'a>,
    upstream: Matrix<'a>,
    /// Of these queries.
    logarithms: &'a [f32],
    from: usize,
}

/// Some rows of a matrix.
fn some(x: Matrix<'_>, from: usize, rows: usize) -> Matrix<'_> {
    Matrix { data: &x.data[from * x.down..], rows, ..x }
}

/// Scores become weights; the logarithm of the sum of their exponentials.
#[inline(always)]
fn to_weights(scores: &mut [f32]) -> f32 {
    let most = largest(scores);
    scores.iter_mut().for_each(|score| *score = exp(*score - most));
    let total = sum(scores, scores, |score, _| score);
    let scale = total.recip();
    scores.iter_mut().for_each(|score| *score *= scale);
    most + total.ln()
}
