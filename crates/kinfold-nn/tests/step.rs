//! The step in one pass beside the step in tensor operations.

use burn::tensor::{Device, Tensor, TensorData};
use kinfold_nn::step::{Moment, Rule, squares, step, step_in_operations};

/// Every kind of rule, and its parts that can be off.
fn rules() -> Vec<Rule> {
    let lars = |weight_decay, trust| Rule::Lars { momentum: 0.9, weight_decay, trust };
    vec![
        Rule::AdamW { weight_decay: 0.1 },
        Rule::AdamW { weight_decay: 0.0 },
        Rule::Sgd { momentum: 0.9, weight_decay: 0.1 },
        Rule::Sgd { momentum: 0.0, weight_decay: 0.0 },
        lars(0.1, Some(0.001)),
        lars(0.0, None),
    ]
}

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 10_007.0 - 0.5;
    (0..n).map(number).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let data = TensorData::new(numbers(shape.iter().product(), seed), shape);
    Tensor::from_data(data, &Device::flex())
}

fn flat<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter::<f32>().collect()
}

/// Some steps; the weight and what is kept after the last.
fn after(rule: &Rule, shape: [usize; 2], scale: f32, pass: bool) -> Vec<Vec<f32>> {
    let n = shape[0] * shape[1];
    let mut weight = tensor(shape, 0);
    let mut kept: Vec<_> = rule.keeps().iter().map(|_| tensor([n], 0) * 0.0).collect();
    for number in 1..=3 {
        let moment = Moment { rate: 0.3 / number as f64, step: number, scale };
        // Gradients come transposed from a product; whoever holds the weight keeps it as it was.
        let gradient = tensor([shape[1], shape[0]], number).transpose();
        let (held, before) = (weight.clone(), flat(&weight));
        let step = if pass { step } else { step_in_operations };
        (weight, kept) = step(rule, moment, weight, gradient, kept);
        assert_eq!(flat(&held), before);
    }
    std::iter::once(flat(&weight)).chain(kept.iter().map(flat)).collect()
}

#[test]
fn one_pass_does_what_operations_do() {
    for rule in rules() {
        for shape in [[1, 1], [3, 5], [64, 127], [700, 801]] {
            for scale in [1.0, 0.25] {
                let (pass, operations) =
                    (after(&rule, shape, scale, true), after(&rule, shape, scale, false));
                // The norms of LARS are sums, in another order; all else is the same to the last bit.
                if matches!(rule, Rule::Lars { trust: Some(_), .. }) {
                    for (x, y) in pass.concat().iter().zip(operations.concat()) {
                        assert!((x - y).abs() <= 1e-6, "{rule:?} {shape:?}: {x}, {y}");
                    }
                } else {
                    assert!(pass == operations, "{rule:?} {shape:?} {scale}");
                }
            }
        }
    }
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let with = |threads: usize, rule: &Rule| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| (after(rule, [700, 801], 0.5, true), squares(tensor([700, 801], 1))))
    };
    for rule in rules() {
        let one = with(1, &rule);
        assert!(one == with(2, &rule) && one == with(5, &rule), "{rule:?}");
    }
}

#[test]
fn what_nobody_else_holds_is_moved_where_it_lies() {
    let at = |x: &Tensor<1>| {
        let primitive = x.clone().try_into_primitive::<burn::backend::Flex>().expect("Flex");
        primitive.as_slice::<f32>().map(<[f32]>::as_ptr)
    };
    let rule = Rule::AdamW { weight_decay: 0.1 };
    let moment = Moment { rate: 0.1, step: 1, scale: 1.0 };
    let (weight, kept) = (tensor([50_000], 0), vec![tensor([50_000], 1), tensor([50_000], 2)]);
    let before = (at(&weight), kept.iter().map(at).collect::<Vec<_>>());
    let (weight, kept) = step(&rule, moment, weight, tensor([50_000], 3), kept);
    assert_eq!((at(&weight), kept.iter().map(at).collect::<Vec<_>>()), before);
}

#[test]
fn squares_are_summed_in_f64() {
    for n in [0, 1, 7, 8, 9, 8192, 8193, 100_001] {
        let exact: f64 = numbers(n, 4).iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((squares(tensor([n], 4)) - exact).abs() <= 1e-12 * exact.max(1.0), "{n}");
    }
}

#[test]
fn lars_trusts_a_layer_only_where_both_norms_are_above_zero() {
    let moment = Moment { rate: 2.0, step: 1, scale: 1.0 };
    let lars = Rule::Lars { momentum: 0.9, weight_decay: 0.0, trust: Some(0.001) };
    let one = |weight: f32, gradient: f32| {
        let of = |x: f32| Tensor::<1>::from_floats([x, 0.0], &Device::flex());
        let (moved, _) = step(&lars, moment, of(weight), of(gradient), vec![of(0.0)]);
        flat(&moved)[0]
    };
    assert_eq!(one(0.0, 0.5), -1.0);
    assert_eq!(one(0.5, 0.0), 0.5);
    // 2 · 0.001 · ‖w‖ / ‖g‖ · g = 0.002 · ‖w‖
    assert!((one(0.5, 4.0) - 0.499).abs() < 1e-7);
}
