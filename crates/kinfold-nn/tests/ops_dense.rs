//! The dense operations beside Burn's own: values and every gradient, over random shapes.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayout};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use kinfold_nn::ops;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::cell::Cell;

thread_local! {
    /// Of the next random tensor. Burn's own generator is one for all tests at once.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Numbers from −√3 to √3, other ones at each call of a test.
fn random<const D: usize>(dims: [usize; D], device: &Device) -> Tensor<D> {
    let seed = SEED.replace(SEED.get() + 1);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let numbers: Vec<f32> = (0..dims.iter().product()).map(|_| 1.732 * uniform()).collect();
    Tensor::from_data(TensorData::new(numbers, dims), device)
}

fn data<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// A tensor whose gradients are wanted, with the same numbers as `x`.
fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().detach().require_grad()
}

#[track_caller]
fn close<const D: usize>(what: &str, ours: Tensor<D>, theirs: Tensor<D>) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (data(ours), data(theirs));
    // What comes in is about 1; where it cancels to much less, rounding is what is left.
    let largest = theirs.iter().fold(0.1f32, |most, x| most.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "{what}: {a} is not {b} at {i}");
    }
}

/// Gradients of `Σ y · g`, with g random but the same at each call with y of one shape.
fn backward<const D: usize>(y: Tensor<D>) -> Gradients {
    let next = SEED.replace(u64::MAX / 2);
    let g = random(y.dims(), &y.device()).cast(y.dtype());
    SEED.set(next);
    (y * g).sum().backward()
}

#[track_caller]
fn same_gradient<const D: usize>(
    what: &str,
    (ours, of_ours): (&Tensor<D>, &Gradients),
    (theirs, of_theirs): (&Tensor<D>, &Gradients),
) {
    let wanted = "a gradient that Burn has";
    close(what, ours.grad(of_ours).expect(wanted), theirs.grad(of_theirs).expect(wanted));
}

/// Shapes from a seed: mostly small, some beyond a block, with tails and ones.
struct Shapes(ChaCha8Rng);

impl Shapes {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
    fn up_to(&mut self, most: usize) -> usize {
        match self.0.next_u32() % 4 {
            0 => 1,
            1 => 1 + self.0.next_u32() as usize % most.min(20),
            _ => 1 + self.0.next_u32() as usize % most,
        }
    }
}

fn check_linear<const D: usize>(dims: [usize; D], d_out: usize, bias: bool, layout: LinearLayout) {
    let device = Device::flex().autodiff();
    let d_in = dims[D - 1];
    let what = format!("{dims:?} to {d_out}, bias {bias}, {layout:?}");
    let mut layer: Linear =
        LinearConfig::new(d_in, d_out).with_bias(bias).with_layout(layout).init(&device);
    let plain = Device::flex();
    let weight = random(layer.weight.dims(), &plain) / (d_in as f32).sqrt();
    layer.weight = Param::from_data(weight.into_data(), &device);
    layer.bias = bias.then(|| Param::from_data(random([d_out], &plain).into_data(), &device));
    let x = random(dims, &device);
    for with_gelu in [false, true] {
        let (a, b) = (leaf(&x), leaf(&x));
        let (ours, theirs) = match with_gelu {
            false => (ops::linear(a.clone(), &layer), layer.forward(b.clone())),
            true => (ops::linear_gelu(a.clone(), &layer), gelu(layer.forward(b.clone()))),
        };
        close(&what, ours.clone(), theirs.clone());
        let (of_ours, of_theirs) = (backward(ours), backward(theirs));
        same_gradient(&format!("x, {what}"), (&a, &of_ours), (&b, &of_theirs));
        let weight = layer.weight.val();
        same_gradient(&format!("weight, {what}"), (&weight, &of_ours), (&weight, &of_theirs));
        if let Some(bias) = &layer.bias {
            let bias = bias.val();
            same_gradient(&format!("bias, {what}"), (&bias, &of_ours), (&bias, &of_theirs));
        }
    }
    // Without gradients, too.
    let plain = layer.valid();
    close(&what, ops::linear(x.clone().inner(), &plain), layer.forward(x).inner());
}

#[test]
fn linear_is_burns() {
    let mut shapes = Shapes::new(1);
    for case in 0..40 {
        let (rows, d_in, d_out) = (shapes.up_to(700), shapes.up_to(200), shapes.up_to(300));
        let layout = if case % 3 == 0 { LinearLayout::Col } else { LinearLayout::Row };
        check_linear([rows, d_in], d_out, case % 4 != 0, layout);
    }
    for _ in 0..10 {
        let dims = [shapes.up_to(9), shapes.up_to(70), shapes.up_to(100)];
        check_linear(dims, shapes.up_to(150), true, LinearLayout::Row);
    }
    check_linear([2, 3, 5, 7], 11, true, LinearLayout::Row);
    check_linear([13], 3, true, LinearLayout::Row);
    // Blocks of rows and of columns.
    check_linear([1030, 65], 1100, true, LinearLayout::Row);
}

#[test]
fn linear_takes_a_view() {
    let device = Device::flex().autodiff();
    let layer = LinearConfig::new(6, 5).init(&device);
    let x = random([7, 6, 3], &device);
    let view = x.clone().swap_dims(1, 2);
    close("view", ops::linear(view.clone(), &layer), layer.forward(view));
    let middle = random([9, 6], &device).narrow(0, 2, 4);
    close("narrowed", ops::linear(middle.clone(), &layer), layer.forward(middle));
}

#[test]
fn gelu_is_burns() {
    let device = Device::flex().autodiff();
    // From where it is 0 to where it is x, in steps that are no multiple of a vector.
    let x = Tensor::<1>::from_floats(
        (-40_001..40_000).map(|i| i as f32 / 2e3).collect::<Vec<_>>().as_slice(),
        &device,
    );
    let (a, b) = (leaf(&x), leaf(&x));
    let (ours, theirs) = (ops::gelu(a.clone()), gelu(b.clone()));
    let (of_ours, of_theirs) = (ours.clone().sum().backward(), theirs.clone().sum().backward());
    // Absolute: within some ulp of 1, and of x where that is larger.
    for (what, ours, theirs) in [
        ("value", data(ours), data(theirs)),
        ("gradient", data(a.grad(&of_ours).unwrap()), data(b.grad(&of_theirs).unwrap())),
    ] {
        for ((x, a), b) in data(x.clone()).iter().zip(ours).zip(theirs) {
            assert!((a - b).abs() <= 4e-7 * x.abs().max(1.0), "{what} at {x}: {a} is not {b}");
        }
    }
    let odd = random([3, 1, 7, 11], &device);
    close("shape", ops::gelu(odd.clone().inner()), gelu(odd.inner()));
}

#[test]
fn gelu_far_out() {
    let device = Device::flex().autodiff();
    let x = Tensor::<1>::from_floats([f32::NAN, 1e30, -1e30, 0.0, -0.0], &device).require_grad();
    let y = ops::gelu(x.clone());
    let of = x.grad(&y.clone().sum().backward()).map(data).unwrap();
    let y = data(y);
    assert!(y[0].is_nan() && of[0].is_nan());
    assert_eq!((y[1], y[2].abs(), y[3]), (1e30, 0.0, 0.0));
    assert_eq!((of[1], of[2], of[3]), (1.0, 0.0, 0.5));
}

const EPSILON: f64 = 3e-4;

fn layer_norm(d: usize, bias: bool, device: &Device) -> LayerNorm {
    let mut layer = LayerNormConfig::new(d).with_bias(bias).with_epsilon(EPSILON).init(device);
    layer.gamma = Param::from_tensor(random([d], device));
    layer.beta = layer.beta.map(|_| Param::from_tensor(random([d], device)));
    layer
}

fn check_layer_norm<const D: usize>(dims: [usize; D], bias: bool) {
    let device = Device::flex().autodiff();
    let what = format!("{dims:?}, bias {bias}");
    let layer = layer_norm(dims[D - 1], bias, &device);
    let x = random(dims, &device) * 2.0 + 0.7;
    let (a, b) = (leaf(&x), leaf(&x));
    let (ours, theirs) = (ops::layer_norm(a.clone(), &layer, EPSILON), layer.forward(b.clone()));
    close(&what, ours.clone(), theirs.clone());
    let (of_ours, of_theirs) = (backward(ours), backward(theirs));
    // Two numbers a row become ±1 whatever they are: what is left of their gradient is rounding.
    if dims[D - 1] > 2 {
        same_gradient(&format!("x, {what}"), (&a, &of_ours), (&b, &of_theirs));
    }
    let gamma = layer.gamma.val();
    same_gradient(&format!("γ, {what}"), (&gamma, &of_ours), (&gamma, &of_theirs));
    if let Some(beta) = &layer.beta {
        let beta = beta.val();
        same_gradient(&format!("β, {what}"), (&beta, &of_ours), (&beta, &of_theirs));
    }
    close(
        &what,
        ops::layer_norm(x.clone().inner(), &layer.valid(), EPSILON),
        layer.forward(x).inner(),
    );
}

#[test]
fn layer_norm_is_burns() {
    let mut shapes = Shapes::new(2);
    for case in 0..30 {
        check_layer_norm([shapes.up_to(900), shapes.up_to(200)], case % 3 != 0);
    }
    check_layer_norm([3, 5, 7, 19], true);
    check_layer_norm([17], true);
    check_layer_norm([64, 1025], true);
}

fn burns_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let scale = (q.dims()[3] as f64).sqrt().recip();
    softmax(q.matmul(k.swap_dims(2, 3)) * scale, 3).matmul(v)
}

fn check_attention(dims: [usize; 4]) {
    let device = Device::flex().autodiff();
    let x: [Tensor<4>; 3] = [(); 3].map(|()| random(dims, &device));
    let (a, b) = (x.each_ref().map(leaf), x.each_ref().map(leaf));
    let all = |f: fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>, x: &[Tensor<4>; 3]| {
        let [q, k, v] = x.clone();
        f(q, k, v)
    };
    let (ours, theirs) = (all(ops::attention, &a), all(burns_attention, &b));
    close(&format!("{dims:?}"), ours.clone(), theirs.clone());
    let (of_ours, of_theirs) = (backward(ours), backward(theirs));
    for (name, (a, b)) in ["q", "k", "v"].iter().zip(a.iter().zip(&b)) {
        same_gradient(&format!("{name}, {dims:?}"), (a, &of_ours), (b, &of_theirs));
    }

    // The same, packed.
    let [batch, heads, tokens, width] = dims;
    let packed = Tensor::stack::<5>(x.to_vec(), 0).permute([1, 3, 0, 2, 4]);
    let packed = leaf(&packed.reshape([batch, tokens, 3 * heads * width]));
    let ours = ops::attention_packed(packed.clone(), heads);
    let apart = |y: Tensor<3>| y.reshape([batch, tokens, heads, width]).swap_dims(1, 2);
    let ours = apart(ours);
    let theirs = all(burns_attention, &b);
    close(&format!("packed, {dims:?}"), ours.clone(), theirs);
    let of_packed = packed.grad(&backward(ours)).unwrap();
    let of_packed = of_packed.reshape([batch, tokens, 3, heads, width]);
    for (i, b) in b.iter().enumerate() {
        let one = of_packed.clone().narrow(2, i, 1).reshape([batch, tokens, heads, width]);
        close(&format!("packed {i}, {dims:?}"), one.swap_dims(1, 2), b.grad(&of_theirs).unwrap());
    }

    let [q, k, v] = x.map(Tensor::inner);
    let theirs = burns_attention(q.clone(), k.clone(), v.clone());
    close(&format!("plain, {dims:?}"), ops::attention(q, k, v), theirs);
}

#[test]
fn attention_is_burns() {
    let mut shapes = Shapes::new(3);
    for _ in 0..25 {
        check_attention([shapes.up_to(5), shapes.up_to(4), shapes.up_to(90), shapes.up_to(40)]);
    }
    // More than one block of queries for a head.
    check_attention([1, 2, 333, 9]);
    check_attention([2, 1, 2100, 3]);
}

#[test]
fn attention_of_views_and_large_scores() {
    let device = Device::flex().autodiff();
    let x: [Tensor<4>; 3] = [(); 3].map(|()| random([2, 10, 3, 8], &device).swap_dims(1, 2) * 20.0);
    let [q, k, v] = x.clone();
    close("views", ops::attention(q, k, v), {
        let [q, k, v] = x;
        burns_attention(q, k, v)
    });
}

#[test]
fn what_needs_no_gradient_gets_none() {
    let device = Device::flex().autodiff();
    let layer = LinearConfig::new(4, 3).init(&device);
    let x = random([5, 4], &device);
    let gradients = backward(ops::linear(x.clone(), &layer));
    assert!(x.grad(&gradients).is_none() && layer.weight.val().grad(&gradients).is_some());
    let fixed = layer.no_grad();
    let x = x.require_grad();
    let gradients = backward(ops::linear(x.clone(), &fixed));
    assert!(x.grad(&gradients).is_some());
}

/// Other devices, and other types on this one, are left to Burn.
#[test]
fn other_types_are_burns() {
    let device = Device::flex().autodiff();
    let wide = |x: Tensor<3>| x.cast(DType::F64);
    let x = wide(random([2, 3, 12], &device)).require_grad();
    let mut layer = LinearConfig::new(12, 12).init(&device);
    layer.weight = layer.weight.map(|x| x.cast(DType::F64).detach().require_grad());
    layer.bias = layer.bias.map(|bias| bias.map(|x| x.cast(DType::F64).detach().require_grad()));
    let mut norm = layer_norm(12, true, &device);
    norm.gamma = norm.gamma.map(|x| x.cast(DType::F64).detach().require_grad());
    norm.beta = norm.beta.map(|beta| beta.map(|x| x.cast(DType::F64).detach().require_grad()));
    let y = ops::linear_gelu(ops::layer_norm(x.clone(), &norm, EPSILON), &layer);
    let y = ops::gelu(ops::linear(ops::attention_packed(y, 2).repeat_dim(2, 3), &layer));
    assert_eq!(y.dtype(), DType::F64);
    assert!(x.grad(&backward(y)).is_some());
}

/// A network of every operation; its output and gradients, bit for bit.
fn bits(threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let device = Device::flex().autodiff();
        SEED.set(0);
        let layer = |d_in: usize, d_out: usize| Linear {
            weight: Param::from_tensor(random([d_in, d_out], &device) * 0.1),
            bias: Some(Param::from_tensor(random([d_out], &device))),
        };
        let (wide, back) = (layer(72, 216), layer(72, 300));
        let norm = layer_norm(72, true, &device);
        let x = random([9, 70, 72], &device).require_grad();
        let y = ops::linear(ops::layer_norm(x.clone(), &norm, EPSILON), &wide);
        let y = ops::gelu(ops::linear_gelu(ops::attention_packed(y, 3), &back));
        let gradients = backward(y.clone());
        let mut numbers = data(y);
        numbers.extend(data(x.grad(&gradients).unwrap()));
        for layer in [&wide, &back] {
            numbers.extend(data(layer.weight.val().grad(&gradients).unwrap()));
            numbers.extend(data(layer.bias.as_ref().unwrap().val().grad(&gradients).unwrap()));
        }
        numbers.extend(data(norm.gamma.val().grad(&gradients).unwrap()));
        numbers.into_iter().map(f32::to_bits).collect()
    })
}

#[test]
fn the_same_bits_for_every_number_of_threads() {
    let one = bits(1);
    for threads in [1, 2, 3, 7] {
        assert!(bits(threads) == one, "{threads} threads");
    }
}
