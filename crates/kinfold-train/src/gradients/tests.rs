use super::*;
use crate::Settings;
use crate::settings::Method;
use crate::tensors::{input, numbers};
use burn::module::{ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, TensorData};
use kinfold_burn::ContrastiveLoss;
use kinfold_data::{Data, Pairs, Split};
use kinfold_nn::encoders::ImageShape;

/// An encoder that looks at each row alone.
#[derive(Module, Debug)]
struct Mlp {
    hidden: Linear,
    out: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.out.forward(relu(self.hidden.forward(x)))
    }
}

/// All gradients of a module's weights, in order.
fn flat<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<f32> {
    struct Flat<'a>(&'a GradientsParams, Vec<f32>);
    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1.extend(gradient.into_data().iter::<f32>());
            }
        }
    }
    let mut flat = Flat(gradients, Vec::new());
    module.visit(&mut flat);
    flat.1
}

#[test]
fn chunks_add_up_to_the_gradient_of_the_batch() -> Result<(), Error> {
    let device = Device::flex().autodiff();
    device.seed(3);
    let model = Mlp {
        hidden: LinearConfig::new(6, 16).init(&device),
        out: LinearConfig::new(16, 5).init(&device),
    };
    let (n, inputs) = (30, 6);
    let side = |shift: usize| {
        let number = |i: usize| ((i * i * 7 + 13 * i + shift) % 101) as f32 / 101.0;
        let numbers: Vec<f32> = (0..n * inputs).map(number).collect();
        Tensor::<2>::from_data(TensorData::new(numbers, [n, inputs]), &device)
    };
    let (a, b) = (side(0), side(5));
    let loss_of = |queries: Vec<Tensor<2>>, keys: Vec<Tensor<2>>| -> Result<Loss, Error> {
        let temperature = kinfold::Temperature::new(0.1)?;
        let loss = ContrastiveLoss::new(kinfold::ContrastiveLoss::nt_xent(temperature));
        let (queries, keys) = (Tensor::cat(queries, 0), Tensor::cat(keys, 0));
        let tensor = loss.try_forward_batch((queries, keys))?;
        let value = f64::from(numbers(tensor.clone())?[0]);
        Ok(Loss { tensor, value, floor: None, ceiling: 0.0 })
    };
    let whole = loss_of(vec![model.forward(a.clone())], vec![model.forward(b.clone())])?;
    let mut gradients = whole.tensor.backward();
    let wanted = flat(&model, &GradientsParams::from_module(&mut gradients, &model));
    let norm = wanted.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(norm > 0.1);

    for chunk in [1, 2, 7, 10, 15, 29, 30] {
        let starts: Vec<usize> = (0..n).step_by(chunk).collect();
        let encode = |model: &Mlp, start: usize| {
            let rows = chunk.min(n - start);
            let of = |x: &Tensor<2>| model.forward(x.clone().narrow(0, start, rows));
            Tensor::cat(vec![of(&a), of(&b)], 0)
        };
        let still = without_graph(&model);
        let rows = starts.iter().map(|&start| encode(&still, start)).collect();
        let (loss, of_rows, _) = of_rows(rows, |rows| {
            let halves = rows.into_iter().map(|rows| {
                let n = rows.dims()[0] / 2;
                (rows.clone().narrow(0, 0, n), rows.narrow(0, n, n))
            });
            let (queries, keys) = halves.unzip();
            loss_of(queries, keys)
        })?;
        assert!((loss.value - whole.value).abs() < 1e-6);
        let found = through(&model, of_rows, |i| Ok(encode(&model, starts[i])))?;
        let found = flat(&model, &found);
        assert_eq!(found.len(), wanted.len());
        let apart = wanted.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(apart <= 1e-6 * norm, "chunks of {chunk}: {apart} of {norm}");
    }
    Ok(())
}

/// The digits, settings of a loss, and a model with batch norm.
struct Digits {
    settings: Settings,
    data: Data,
    split: Split,
    pairs: Vec<Pair>,
    model: Model,
    device: Device,
}

impl Digits {
    fn new(loss: &str) -> Result<Self, Error> {
        let device = Device::flex().autodiff();
        let mut settings = Settings::default();
        settings.encoder.widths = Some(vec![8, 16]);
        match Method::ALL.into_iter().find(|method| method.as_str() == loss) {
            Some(method) => settings.method = method,
            None => settings.loss.name = Some(loss.to_owned()),
        }
        settings.encoder = settings.with_heads();
        let data = settings.read()?;
        let split = data.split(0.2);
        let pairs = Pairs::new(data.items(), &split, &settings.pairs)?;
        let pairs = pairs.batches(24, 0, 0)[0].to_vec();
        let shape = ImageShape { size: 8, channels: 1 };
        let model = Model::random(&settings.encoder, shape, 0, &device)?;
        Ok(Self { settings, data, split, pairs, model, device })
    }

    fn views(&self, pairs: &[Pair]) -> Result<Input, Error> {
        let views = self.data.draw_pairs(pairs, &self.settings.view, 0, 0)?;
        Ok(input(views, &self.device))
    }

    /// The model as it was at first, with running statistics of its own.
    fn fresh(&self) -> Model {
        self.model.valid().train()
    }

    fn criterion(&self) -> Result<Criterion, Error> {
        let pairs = Pairs::new(self.data.items(), &self.split, &self.settings.pairs)?;
        let of_data = (self.data.items(), self.settings.shape(&self.data));
        Criterion::new(&self.settings, of_data, &pairs, &self.device)
    }
}

/// Everything that a way to the gradients gives: the loss, its gradients, the model with the running
/// statistics that it then has, and the temperature after a step.
type Outcome = (f64, Vec<f32>, Vec<u8>, f64);

fn outcome(
    digits: &Digits,
    criterion: &mut Criterion,
    way: impl FnOnce(&Model, &mut Criterion) -> Result<Found, Error>,
) -> Result<Outcome, Error> {
    let model = digits.fresh();
    let found = way(&model, criterion)?;
    let of_model = flat(&model, &found.of_model);
    let follows = digits.settings.method.has_momentum_encoder();
    if !follows && !digits.settings.named()?.queue {
        criterion.step(1e-3, found.of_loss, &model, 0.5);
    }
    Ok((found.loss.value, of_model, model.to_bytes()?, criterion.temperature()?))
}

#[test]
fn one_chunk_is_the_whole_batch_to_the_last_bit() -> Result<(), Error> {
    for loss in ["nt-xent", "open-clip", "moco", "moco-v3", "byol", "simsiam"] {
        let digits = Digits::new(loss)?;
        let (pairs, views) = (&digits.pairs, |pairs: &[Pair]| digits.views(pairs));
        // The encoder of a queue is random: it stays the same for all ways. What is learned begins
        // anew.
        let mut first = digits.criterion()?;
        let begin = first.temperature()?;
        let mut try_way = |way: &dyn Fn(&Model, &mut Criterion) -> Result<Found, Error>| {
            if loss != "moco" {
                first = digits.criterion()?;
            }
            outcome(&digits, &mut first, way)
        };
        let mut by = |chunk: Option<usize>| {
            try_way(&|model, criterion| gradients(model, criterion, pairs, chunk, &views))
        };
        let plain = by(None)?;
        assert!(plain == by(Some(24))? && plain == by(Some(1000))?, "{loss}");
        assert!(plain.1 != by(Some(12))?.1, "{loss}: batch norm sees chunks");
        assert_eq!(plain.3 != begin, loss == "open-clip");

        // Encoding twice changes no bit, and batch norm's statistics move once.
        let twice = try_way(&|model, criterion| {
            let views = views(pairs)?;
            let keys = criterion.keys(model, &views).into_iter().collect();
            let rows = vec![criterion.rows(&without_graph(model), views.clone())];
            let (loss, of_rows, mut of_loss) =
                of_rows(rows, |rows| criterion.loss(rows, keys, pairs))?;
            let of_loss = criterion.gradients(&mut of_loss);
            let of_model = through(model, of_rows, |_| Ok(criterion.rows(model, views.clone())))?;
            Ok(Found { loss, of_model, of_loss })
        })?;
        assert!(twice == plain, "{loss}");
    }
    Ok(())
}

#[test]
fn running_statistics_move_once_for_each_chunk() -> Result<(), Error> {
    let digits = Digits::new("nt-xent")?;
    let (chunked, once) = (digits.fresh(), digits.fresh());
    let mut criterion = digits.criterion()?;
    gradients(&chunked, &mut criterion, &digits.pairs, Some(8), &|pairs| digits.views(pairs))?;
    for pairs in parts(&digits.pairs, 8) {
        criterion.rows(&once, digits.views(pairs)?);
    }
    let (chunked, once) = (chunked.to_bytes()?, once.to_bytes()?);
    assert!(chunked == once && chunked != digits.model.to_bytes()?);
    Ok(())
}

#[test]
fn parts_are_few_and_even() {
    let pair = Pair { a: 0, b: 0, pose: 0, group: 0, key: 0, place: 0 };
    let sizes = |n: usize, chunk| -> Vec<usize> {
        parts(&vec![pair; n], chunk).iter().map(|part| part.len()).collect()
    };
    assert_eq!(sizes(257, 256), [128, 129]);
    assert_eq!(sizes(512, 256), [256, 256]);
    assert_eq!(sizes(10, 4), [3, 3, 4]);
}
