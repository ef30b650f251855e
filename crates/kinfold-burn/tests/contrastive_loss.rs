//! Both paths of the loss against Burn's own autodiff of the dense formula, value and every gradient.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Distribution, Int, Tensor};
use kinfold_burn::{
    ContrastiveLoss, ContrastiveLossConfig, Error, Form, PairBatch, Reduction, Similarity,
    Temperature,
};

/// The dense formula, in plain tensor operations that Burn differentiates itself.
fn dense(
    config: &ContrastiveLossConfig,
    q: Tensor<2>,
    k: Tensor<2>,
    scale: Tensor<1>,
) -> Tensor<1> {
    let unit = |x: Tensor<2>| match config.similarity {
        Similarity::Cosine => x.clone() / x.powi_scalar(2).sum_dim(1).sqrt(),
        Similarity::Dot => x,
    };
    let (q, k) = (unit(q), unit(k));
    let scale = scale.reshape([1, 1]);
    let chosen = |s: Tensor<2>, positives: Tensor<1, Int>| {
        let n = s.dims()[0];
        log_softmax(s, 1).gather(1, positives.reshape([n, 1])).mean().neg()
    };
    let n = q.dims()[0] as i64;
    let device = q.device();
    let diagonal = || Tensor::<1, Int>::arange(0..n, &device);
    match config.form {
        Form::OneWay => chosen(q.matmul(k.transpose()) * scale, diagonal()),
        Form::BothWays => {
            let s = q.matmul(k.transpose()) * scale;
            (chosen(s.clone(), diagonal()) + chosen(s.transpose(), diagonal())) / 2.0
        }
        Form::NtXent => {
            let z = Tensor::cat(vec![q, k], 0);
            let own = Tensor::<2>::eye(2 * n as usize, &device) * 1e9;
            let s = z.clone().matmul(z.transpose()) * scale - own;
            chosen(s, Tensor::cat(vec![diagonal() + n, diagonal()], 0))
        }
    }
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let size = theirs.iter().map(|x| x * x).sum::<f32>().sqrt();
    let error = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    assert!(error <= 2e-5 * size.max(1e-3), "{what}: error {error:e}, size {size:e}");
}

type Forward = fn(&ContrastiveLoss, Tensor<2>, Tensor<2>) -> Result<Tensor<1>, Error>;
const PATHS: [(&str, Forward); 2] = [
    ("fused", |loss, q, k| loss.try_forward_batch((q, k))),
    // The last strip of most shapes below is shorter.
    ("strips", |loss, q, k| loss.forward_in_strips(PairBatch::new(q, k), Some(Reduction::Mean), 5)),
];

#[test]
fn both_paths_equal_autodiff_of_the_dense_formula() {
    let device = Device::flex().autodiff();
    device.seed(3);
    for form in [Form::OneWay, Form::BothWays, Form::NtXent] {
        for similarity in [Similarity::Cosine, Similarity::Dot] {
            for (n, d, temperature) in [(1, 3, 0.5), (2, 2, 1.0), (7, 5, 0.2), (33, 16, 0.5)] {
                let config = ContrastiveLossConfig::new()
                    .with_form(form)
                    .with_similarity(similarity)
                    .with_temperature(temperature)
                    .with_learned(true);
                let random = || {
                    Tensor::<2>::random([n, d], Distribution::Normal(0.0, 0.7), &device)
                        .require_grad()
                };
                let (q, k) = (random(), random());
                let log_scale =
                    Tensor::<1>::from_floats([-temperature.ln() as f32], &device).require_grad();
                // An upstream gradient other than 1 must come through.
                let right = dense(&config, q.clone(), k.clone(), log_scale.clone().exp()) * 3.0;
                let expected = right.backward();
                for (path, forward) in PATHS {
                    let what = format!("{path} {config:?} n = {n}, d = {d}");
                    let criterion = config.init(&device);
                    let ours = forward(&criterion, q.clone(), k.clone()).unwrap() * 3.0;
                    assert_close(&what, &numbers(ours.clone()), &numbers(right.clone()));
                    let gradients = ours.backward();
                    for (x, side) in [(&q, "queries"), (&k, "keys")] {
                        assert_close(
                            &format!("{side} {what}"),
                            &numbers(x.grad(&gradients).unwrap()),
                            &numbers(x.grad(&expected).unwrap()),
                        );
                    }
                    let learned = criterion.log_scale.as_ref().unwrap().val();
                    assert_close(
                        &format!("log scale {what}"),
                        &numbers(learned.grad(&gradients).unwrap()),
                        &numbers(log_scale.grad(&expected).unwrap()),
                    );
                }
            }
        }
    }
}

#[test]
fn one_side_may_be_constant_and_one_tensor_may_be_both() {
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::random([6, 4], Distribution::Default, &device);
    let criterion = ContrastiveLossConfig::new().init(&device);
    for (path, forward) in PATHS {
        let q = x.clone().require_grad();
        let gradients =
            forward(&criterion, q.clone(), x.clone().mul_scalar(2.0)).unwrap().backward();
        let of_constant = q.grad(&gradients).expect("queries have a gradient");
        let k = x.clone().mul_scalar(2.0).require_grad();
        let gradients = forward(&criterion, q.clone(), k).unwrap().backward();
        assert_close(path, &numbers(of_constant), &numbers(q.grad(&gradients).unwrap()));
        // Used on both sides and twice in one graph, its gradients add up.
        let value = || forward(&criterion, q.clone(), q.clone()).unwrap();
        let once = q.grad(&value().backward()).unwrap();
        let twice = q.grad(&(value() + value()).backward()).unwrap();
        assert_close(path, &numbers(twice), &numbers(once * 2.0));
    }
}

#[test]
fn without_autodiff_it_is_the_value() {
    let device = Device::flex();
    let q = Tensor::<2>::random([9, 4], Distribution::Default, &device);
    let k = Tensor::<2>::random([9, 4], Distribution::Default, &device);
    let loss = kinfold::ContrastiveLoss::nt_xent(Temperature::new(0.2).unwrap());
    let (a, b) = (numbers(q.clone()), numbers(k.clone()));
    let view = |x| kinfold::Embeddings::new(x, 4).unwrap();
    let expected = loss.value((view(&a), view(&b))).unwrap().mean as f32;
    for (path, forward) in PATHS {
        let value = numbers(forward(&ContrastiveLoss::new(loss), q.clone(), k.clone()).unwrap());
        assert_close(path, &value, &[expected]);
    }
}

#[test]
fn a_transposed_tensor_is_read_in_its_order() {
    let device = Device::flex();
    let q = Tensor::<2>::random([4, 9], Distribution::Default, &device);
    let k = Tensor::<2>::random([9, 4], Distribution::Default, &device);
    let criterion = ContrastiveLossConfig::new().init(&device);
    let lazily = criterion.forward(q.clone().transpose(), k.clone());
    let copy = Tensor::<2>::from_data(q.transpose().into_data(), &device);
    assert_eq!(numbers(lazily), numbers(criterion.forward(copy, k)));
}

#[test]
fn bad_input_is_an_error() {
    let device = Device::flex().autodiff();
    let criterion = ContrastiveLossConfig::new().with_form(Form::BothWays).init(&device);
    let (q, k) = (Tensor::<2>::ones([4, 3], &device), Tensor::<2>::ones([5, 3], &device));
    for (path, forward) in PATHS {
        let error = forward(&criterion, q.clone(), k.clone()).unwrap_err().to_string();
        assert_eq!(error, "keys have 5 rows but queries have 4", "{path}");
    }
    let error = criterion.try_forward_batch((q.clone() * f32::NAN, q)).unwrap_err().to_string();
    assert!(error.contains("queries hold NaN at row 0, column 0"), "{error}");
}
