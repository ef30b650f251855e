//! Every operation against Burn's own: values and every gradient, over shapes, strides, paddings,
//! odd sizes and single images; and the same bits for every number of threads.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use kinfold_nn::ops::{self, Activation, SharedBatch, SumOverProcesses};
use std::sync::{Arc, Barrier, Mutex};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

#[track_caller]
fn close(what: &str, ours: TensorData, burns: TensorData) {
    assert_eq!(ours.shape(), burns.shape(), "{what}");
    let numbers = |data: &TensorData| data.iter::<f64>().collect::<Vec<_>>();
    let (ours, burns) = (numbers(&ours), numbers(&burns));
    let largest = burns.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    for (i, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        let apart = (ours - burns).abs();
        assert!(apart <= 2e-5 * (1.0 + largest), "{what}: {ours} instead of {burns} at {i}");
    }
}

/// The output of `function`, and the gradients of its weighted sum.
struct Seen {
    out: TensorData,
    x: TensorData,
    parameters: Vec<Option<TensorData>>,
}

fn seen<const D: usize, const E: usize>(
    x: &Tensor<D>,
    weights: &Tensor<E>,
    function: impl FnOnce(Tensor<D>) -> Tensor<E>,
    parameters: impl FnOnce(&burn::tensor::Gradients) -> Vec<Option<TensorData>>,
) -> Seen {
    let x = x.clone().detach().require_grad();
    let out = function(x.clone());
    let gradients = (out.clone() * weights.clone()).sum().backward();
    Seen {
        out: out.into_data(),
        x: x.grad(&gradients).expect("a gradient").into_data(),
        parameters: parameters(&gradients),
    }
}

#[track_caller]
fn alike(what: &str, ours: Seen, burns: Seen) {
    close(&format!("{what}: output"), ours.out, burns.out);
    close(&format!("{what}: gradient of the input"), ours.x, burns.x);
    assert_eq!(ours.parameters.len(), burns.parameters.len());
    for (i, (ours, burns)) in ours.parameters.into_iter().zip(burns.parameters).enumerate() {
        match (ours, burns) {
            (Some(ours), Some(burns)) => close(&format!("{what}: gradient {i}"), ours, burns),
            (ours, burns) => assert_eq!(ours.is_some(), burns.is_some(), "{what}: gradient {i}"),
        }
    }
}

fn of_convolution(layer: &Conv2d, gradients: &burn::tensor::Gradients) -> Vec<Option<TensorData>> {
    let bias = layer.bias.as_ref();
    vec![
        layer.weight.val().grad(gradients).map(Tensor::into_data),
        bias.and_then(|bias| bias.val().grad(gradients)).map(Tensor::into_data),
    ]
}

fn check_convolution(config: &Conv2dConfig, shape: [usize; 4]) {
    let device = Device::flex().autodiff();
    let layer = config.init(&device);
    let x = random(shape, &device);
    let weights = random(layer.forward(x.clone()).dims(), &device);
    let what = format!("{config} on {shape:?}");
    let ours = seen(&x, &weights, |x| ops::conv2d(x, &layer), |g| of_convolution(&layer, g));
    let burns = seen(&x, &weights, |x| layer.forward(x), |g| of_convolution(&layer, g));
    alike(&what, ours, burns);
}

#[test]
fn convolutions_are_burns() {
    let mut case = 0;
    for kernel in [1, 2, 3, 5, 7] {
        for stride in [1, 2, 3] {
            for padding in [0, 1, kernel / 2] {
                for channels in [[1, 5], [3, 32], [17, 48], [64, 70]] {
                    // Not every size with everything.
                    case += 1;
                    let images = [1, 3, 2][case % 3];
                    let (height, width) = [(7, 7), (8, 11), (9, 8), (13, 7)][case % 4];
                    let config = Conv2dConfig::new(channels, [kernel, kernel])
                        .with_stride([stride; 2])
                        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                        .with_bias(case % 2 == 0);
                    check_convolution(&config, [images, channels[0], height, width]);
                }
            }
        }
    }
}

#[test]
fn convolutions_of_unequal_sides_and_many_images_are_burns() {
    let config = Conv2dConfig::new([5, 7], [3, 4]).with_stride([2, 1]);
    let around = config.clone().with_padding(PaddingConfig2d::Explicit(1, 0, 2, 3));
    check_convolution(&around, [2, 5, 9, 6]);
    check_convolution(&config.with_padding(PaddingConfig2d::Valid), [2, 5, 9, 6]);
    let same = Conv2dConfig::new([3, 6], [4, 3]).with_padding(PaddingConfig2d::Same);
    check_convolution(&same, [2, 3, 6, 7]);
    check_convolution(&Conv2dConfig::new([20, 33], [3, 3]), [45, 20, 4, 4]);
    check_convolution(&Conv2dConfig::new([200, 130], [3, 3]), [3, 200, 6, 5]);
    // More stride than kernel: pixels that no tap reads.
    check_convolution(&Conv2dConfig::new([4, 6], [1, 1]).with_stride([2, 3]), [2, 4, 7, 8]);
}

/// Sizes that Winograd's algorithm is taken for.
#[test]
fn convolutions_of_many_tiles_are_burns() {
    let config = |channels| Conv2dConfig::new(channels, [3, 3]);
    let around = PaddingConfig2d::Explicit(1, 1, 1, 1);
    check_convolution(&config([32, 48]).with_padding(around.clone()), [30, 32, 9, 14]);
    check_convolution(&config([70, 33]).with_padding(PaddingConfig2d::Valid), [40, 70, 8, 10]);
    check_convolution(&config([200, 130]).with_padding(around), [60, 200, 4, 4]);
    let uneven = PaddingConfig2d::Explicit(2, 0, 1, 3);
    check_convolution(&config([64, 64]).with_padding(uneven), [5, 64, 31, 29]);
}

#[test]
fn groups_and_dilation_are_left_to_burn() {
    check_convolution(&Conv2dConfig::new([4, 6], [3, 3]).with_groups(2), [2, 4, 7, 7]);
    check_convolution(&Conv2dConfig::new([4, 6], [3, 3]).with_dilation([2, 2]), [2, 4, 7, 7]);
}

/// Values alone, where nothing is differentiated; and images that lie otherwise in memory.
#[test]
fn convolutions_without_gradients_are_burns() {
    let device = Device::flex();
    let layer = Conv2dConfig::new([6, 20], [3, 3]).init(&device);
    let x: Tensor<4> = random([3, 9, 8, 6], &device);
    for x in [
        x.clone().permute([0, 3, 1, 2]),
        x.clone().permute([0, 3, 2, 1]),
        x.clone().permute([0, 3, 1, 2]).flip([2]),
        x.slice([1..3, 0..9, 2..8, 0..6]).permute([0, 3, 1, 2]),
    ] {
        let burns = layer.forward(x.clone()).into_data();
        close("strided", ops::conv2d(x, &layer).into_data(), burns);
    }
}

/// A first layer's input wants no gradient, frozen weights neither.
#[test]
fn only_gradients_that_are_wanted_are_computed() {
    let device = Device::flex().autodiff();
    let layer = Conv2dConfig::new([3, 8], [3, 3]).init(&device);
    let x: Tensor<4> = random([2, 3, 6, 6], &device);
    let gradients = ops::conv2d(x.clone(), &layer).sum().backward();
    assert!(x.grad(&gradients).is_none());
    assert!(layer.weight.val().grad(&gradients).is_some());
    let frozen = burn::module::Module::freeze(layer);
    let x = x.require_grad();
    let gradients = ops::conv2d(x.clone(), &frozen).sum().backward();
    assert!(x.grad(&gradients).is_some());
    assert!(frozen.weight.val().grad(&gradients).is_none());
}

fn norm(channels: usize, device: &Device) -> BatchNorm {
    let mut layer = BatchNormConfig::new(channels).with_momentum(0.3).init(device);
    layer.gamma = Param::from_tensor(random([channels], device));
    layer.beta = Param::from_tensor(random([channels], device));
    layer.running_mean = burn::module::RunningState::new(random([channels], device));
    layer.running_var = burn::module::RunningState::new(random([channels], device).add_scalar(1.5));
    layer
}

/// A module that shares no state with `layer`.
fn copy_of(layer: &BatchNorm) -> BatchNorm {
    let mut copy = layer.clone();
    copy.running_mean = burn::module::RunningState::new(layer.running_mean.value_sync());
    copy.running_var = burn::module::RunningState::new(layer.running_var.value_sync());
    copy
}

fn of_norm(layer: &BatchNorm, gradients: &burn::tensor::Gradients) -> Vec<Option<TensorData>> {
    let of = |x: &Param<Tensor<1>>| x.val().grad(gradients).map(Tensor::into_data);
    vec![of(&layer.gamma), of(&layer.beta)]
}

fn activated<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::None => x,
        Activation::Relu => relu(x),
    }
}

#[test]
fn batch_norm_is_burns() {
    let device = Device::flex().autodiff();
    for shape in [[1, 3, 4, 4], [5, 1, 3, 7], [4, 17, 5, 5], [9, 64, 8, 8], [3, 200, 3, 1]] {
        for activation in [Activation::None, Activation::Relu] {
            for (training, offset) in [(true, 0.0), (true, 3.0), (false, 0.0)] {
                let layer = norm(shape[1], &device);
                let layer = if training { layer } else { burn::module::Module::freeze(layer) };
                let burns_layer = copy_of(&layer);
                let x = random(shape, &device).add_scalar(offset);
                let weights = random(shape, &device);
                let what = format!("{shape:?}, {activation:?}, training {training}, {offset}");
                let ours = seen(
                    &x,
                    &weights,
                    |x| ops::batch_norm(x, &layer, activation),
                    |g| of_norm(&layer, g),
                );
                let burns = seen(
                    &x,
                    &weights,
                    |x| activated(burns_layer.forward(x), activation),
                    |g| of_norm(&burns_layer, g),
                );
                alike(&what, ours, burns);
                let running = |layer: &BatchNorm| {
                    [&layer.running_mean, &layer.running_var].map(|x| x.value_sync().into_data())
                };
                for (ours, burns) in running(&layer).into_iter().zip(running(&burns_layer)) {
                    close(&format!("{what}: running"), ours, burns);
                }
            }
        }
    }
}

#[test]
fn batch_norm_of_vectors_is_burns() {
    let device = Device::flex().autodiff();
    for shape in [[7, 5], [300, 33]] {
        let layer = norm(shape[1], &device);
        let (x, weights) = (random(shape, &device), random(shape, &device));
        let norm = |x| ops::batch_norm_1d(x, &layer, Activation::Relu);
        let ours = seen(&x, &weights, norm, |g| of_norm(&layer, g));
        let burns = seen(&x, &weights, |x| relu(layer.forward(x)), |g| of_norm(&layer, g));
        alike("vectors", ours, burns);
    }
}

#[test]
fn batch_norm_with_a_residual_is_burns() {
    let device = Device::flex().autodiff();
    for shape in [[2, 5, 3, 4], [4, 48, 6, 6]] {
        let layer = norm(shape[1], &device);
        let other = norm(shape[1], &device);
        let (x, weights) = (random(shape, &device), random(shape, &device));
        let of = |gradients: &burn::tensor::Gradients| {
            [of_norm(&layer, gradients), of_norm(&other, gradients)].concat()
        };
        let residual = |x: &Tensor<4>| other.forward(x.clone());
        let add = |x: Tensor<4>| ops::batch_norm_add_relu(x.clone(), &layer, residual(&x));
        let ours = seen(&x, &weights, add, of);
        let add = |x: Tensor<4>| relu(layer.forward(x.clone()) + residual(&x));
        alike("residual", ours, seen(&x, &weights, add, of));
    }
}

#[test]
fn batch_norm_without_gradients_is_burns() {
    let device = Device::flex();
    let layer = norm(20, &device);
    let x = random([3, 20, 5, 6], &device);
    let ours = ops::batch_norm(x.clone(), &layer, Activation::Relu);
    close("evaluation", ours.into_data(), relu(layer.forward(x)).into_data());
}

/// Threads in the place of processes.
#[derive(Debug)]
struct Threads {
    arrival: Barrier,
    sums: Mutex<Vec<f64>>,
}

impl Threads {
    fn of(count: usize) -> Arc<Self> {
        Arc::new(Self { arrival: Barrier::new(count), sums: Mutex::default() })
    }
}

impl SumOverProcesses for Threads {
    fn sum(&self, numbers: &mut [f64]) {
        {
            let mut sums = self.sums.lock().unwrap();
            sums.resize(numbers.len(), 0.0);
            sums.iter_mut().zip(&*numbers).for_each(|(sum, number)| *sum += number);
        }
        self.arrival.wait();
        numbers.copy_from_slice(&self.sums.lock().unwrap());
        if self.arrival.wait().is_leader() {
            self.sums.lock().unwrap().clear();
        }
        self.arrival.wait();
    }
}

/// Of uneven parts, one of which does not count.
#[test]
fn batch_norm_of_parts_is_that_of_the_whole_batch() {
    let device = Device::flex().autodiff();
    let (parts, channels, size) = ([3, 1, 4], 17, 5);
    let whole = [parts.iter().sum(), channels, size, size];
    for with_residual in [false, true] {
        let layer = norm(channels, &device);
        let (x, weights) = (random(whole, &device).add_scalar(3.0), random(whole, &device));
        let apply = move |x: Tensor<4>, layer: &BatchNorm| match with_residual {
            true => ops::batch_norm_add_relu(x.clone(), layer, x * 0.5),
            false => ops::batch_norm(x, layer, Activation::Relu),
        };
        let running = |layer: &BatchNorm| {
            [&layer.running_mean, &layer.running_var].map(|x| x.value_sync().into_data())
        };
        let once = copy_of(&layer);
        let expected = seen(&x, &weights, |x| apply(x, &once), |g| of_norm(&once, g));

        let threads = Threads::of(parts.len() + 1);
        let (mut handles, mut first) = (Vec::new(), 0);
        for rows in parts.into_iter().chain([0]) {
            let part = |x: &Tensor<4>| x.clone().narrow(0, first, rows.max(1)).detach();
            let (x, weights, layer) = (part(&x), part(&weights), copy_of(&layer));
            // What does not count may be anything, and its gradient is dropped.
            let x = if rows == 0 { x * 1e3 } else { x };
            let shared = SharedBatch { processes: threads.clone(), counts: rows > 0 };
            first = if rows == 0 { first } else { (first + rows).min(whole[0] - 1) };
            handles.push(std::thread::spawn(move || {
                ops::over_shared_batch(Some(shared), || {
                    let seen = seen(&x, &weights, |x| apply(x, &layer), |g| of_norm(&layer, g));
                    (seen, running(&layer))
                })
            }));
        }
        let seen: Vec<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        let tensor = |data: &TensorData| Tensor::<4>::from_data(data.clone(), &device);
        let joined = |of: &dyn Fn(&Seen) -> &TensorData| {
            let counted = seen[..parts.len()].iter().map(|(seen, _)| tensor(of(seen)));
            Tensor::cat(counted.collect(), 0).into_data()
        };
        let sum = |i: usize| {
            let parts = seen[..parts.len()].iter().map(|(seen, _)| {
                Tensor::<1>::from_data(seen.parameters[i].clone().unwrap(), &device)
            });
            Some(parts.reduce(|sum, part| sum + part).unwrap().into_data())
        };
        let ours = Seen {
            out: joined(&|seen| &seen.out),
            x: joined(&|seen| &seen.x),
            parameters: (0..expected.parameters.len()).map(sum).collect(),
        };
        alike(&format!("parts, residual {with_residual}"), ours, expected);
        for (_, ours) in &seen {
            for (ours, whole) in ours.iter().zip(running(&once)) {
                close("running statistics of parts", ours.clone(), whole);
            }
        }
    }
}

/// What f32 sums of squares would lose.
#[test]
fn variance_far_from_zero_is_exact() {
    let device = Device::flex().autodiff();
    let layer = BatchNormConfig::new(1).with_momentum(1.0).init(&device);
    let numbers: Vec<f32> = (0..4096).map(|i| 4096.0 + (i % 2) as f32).collect();
    let x = Tensor::<1>::from_data(TensorData::from(&numbers[..]), &device).reshape([4, 1, 32, 32]);
    ops::batch_norm(x, &layer, Activation::None);
    assert_eq!(layer.running_mean.value_sync().into_scalar::<f32>(), 4096.5);
    assert_eq!(layer.running_var.value_sync().into_scalar::<f32>(), 0.25);
}

#[test]
fn nan_stays_nan() {
    let device = Device::flex();
    let layer = norm(1, &device);
    let x = Tensor::<4>::full([1, 1, 2, 2], f32::NAN, &device);
    let out = ops::batch_norm(x, &layer, Activation::Relu).into_data();
    assert!(out.iter::<f32>().all(f32::is_nan));
}

#[test]
fn pooling_is_burns() {
    let device = Device::flex().autodiff();
    for (shape, kernel, stride, padding) in [
        ([2, 5, 8, 8], 3, 2, 1),
        ([1, 64, 7, 9], 3, 2, 1),
        ([3, 20, 6, 6], 2, 2, 0),
        ([2, 3, 9, 5], 3, 1, 0),
        ([2, 3, 9, 5], 2, 3, 1),
    ] {
        let layer = MaxPool2dConfig::new([kernel; 2])
            .with_strides([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
            .init();
        let x = random(shape, &device);
        let weights = random(layer.forward(x.clone()).dims(), &device);
        let ours = seen(&x, &weights, |x| ops::max_pool2d(x, &layer), |_| vec![]);
        let burns = seen(&x, &weights, |x| layer.forward(x), |_| vec![]);
        alike(&format!("{kernel}, {stride}, {padding}"), ours, burns);

        let weights = random([shape[0], shape[1]], &device);
        let mean = |x: Tensor<4>| x.mean_dims(&[2, 3]).reshape([shape[0], shape[1]]);
        let ours = seen(&x, &weights, ops::global_average_pool, |_| vec![]);
        alike("mean", ours, seen(&x, &weights, mean, |_| vec![]));
    }
}

#[test]
fn doubles_are_left_to_burn() {
    let device = Device::flex();
    let x = random([2, 3, 6, 6], &device).cast(burn::tensor::FloatDType::F64);
    let pooled = ops::global_average_pool(x.clone());
    assert_eq!(pooled.dtype(), burn::tensor::DType::F64);
    close("mean", pooled.into_data(), x.mean_dims(&[2, 3]).reshape([2, 3]).into_data());
}

/// A small network's loss and gradients, on so many threads.
fn bits(threads: usize, [images, channels, side, filters]: [usize; 4]) -> Vec<TensorData> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let device = Device::flex().autodiff();
        let numbers =
            |n: usize| (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        let tensor = |shape: [usize; 4]| {
            let numbers = numbers(shape.iter().product());
            Tensor::<1>::from_data(TensorData::from(&numbers[..]), &device).reshape(shape)
        };
        let mut layer = Conv2dConfig::new([channels, filters], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(&device);
        layer.weight = Param::from_tensor(tensor([filters, channels, 3, 3]));
        layer.bias = None;
        let norm = BatchNormConfig::new(filters).init(&device);
        let x = tensor([images, channels, side, side]).require_grad();
        let out = ops::batch_norm(ops::conv2d(x.clone(), &layer), &norm, Activation::Relu);
        let out = ops::global_average_pool(out);
        let gradients = (out.clone() * out.clone()).sum().backward();
        let of = |x: Option<Tensor<4>>| x.expect("a gradient").into_data();
        let mut all = vec![out.into_data(), of(x.grad(&gradients))];
        all.push(of(layer.weight.val().grad(&gradients)));
        all.push(norm.gamma.val().grad(&gradients).expect("a gradient").into_data());
        all.push(norm.running_var.value_sync().into_data());
        all
    })
}

#[test]
fn the_bits_are_those_of_every_number_of_threads() {
    // Sums over taps; many tiles of few channels; few tiles of many channels.
    for shape in [[37, 5, 9, 40], [37, 20, 9, 40], [50, 130, 4, 200]] {
        let one = bits(1, shape);
        for threads in [2, 3, 8] {
            assert_eq!(one, bits(threads, shape), "{threads} threads, {shape:?}");
        }
    }
}
