//! The loss of a run, and what it carries from step to step: a learned temperature and bias, a queue
//! of earlier keys and the encoder that these come from.
//!
//! Input: a model, two views of each of some images. Output: their projections, the loss of
//! these, and after the model's step its own.

use crate::Error;
use crate::loss::Named;
use crate::optimizer::Optimizer;
use crate::run::State;
use crate::settings::{OptimizerName, OptimizerSettings, Settings};
use crate::tensors::numbers;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Int, Tensor};
use kinfold::{Batch, Embeddings, Form, Objective, Temperature};
use kinfold_burn::{ContrastiveLoss, PairBatch};
use kinfold_data::{Items, Pair, Pairs};
use kinfold_nn::encoders::{Input, InputShape, Model};
use std::collections::VecDeque;
use std::ops::Range;

pub(crate) struct Criterion {
    named: Named,
    module: ContrastiveLoss,
    optimizer: Optimizer,
    /// What the model's learning rate is multiplied by for what the loss learns.
    share: f64,
    /// Each row's class, where the loss wants to know.
    classes: Option<Vec<i64>>,
    /// Whether pairs of one class, or else of one group, are no negatives of each other.
    mask: bool,
    queue: Option<Queue>,
    negatives: Negatives,
}

/// Negatives that the data lists.
struct Negatives {
    /// So many of each pair.
    per_pair: usize,
    /// What each is known by, `[pairs, per_pair]`: the class or group that it is of, and else a number of its
    /// own, so that it is no negative of what it belongs to.
    ids: Vec<i64>,
}

impl Negatives {
    /// Of a list's pairs; `classes` are each row's.
    fn new(items: &Items, classes: Option<&[i64]>) -> Self {
        let groups = items.groups_of_seconds();
        let id = |&row: &usize| match classes {
            Some(classes) => classes[row],
            None => groups[row].unwrap_or(items.pairs() + row) as i64,
        };
        let per_pair = items.negatives_per_pair();
        let pairs = if per_pair == 0 { 0 } else { items.pairs() };
        Self {
            per_pair,
            ids: (0..pairs).flat_map(|place| items.negatives(place)).map(id).collect(),
        }
    }

    fn of(&self, pair: &Pair) -> &[i64] {
        &self.ids[pair.place * self.per_pair..][..self.per_pair]
    }
}

/// Earlier keys, and the encoder that makes them: it follows the trained one slowly (MoCo, He et al.
/// 2020).
struct Queue {
    model: Model,
    momentum: f64,
    most: usize,
    /// The keys, oldest first, `[rows, projection]`; none before the first step.
    keys: Option<Tensor<2>>,
    /// Their classes, where the loss wants to know.
    classes: VecDeque<i64>,
    /// The keys and classes of the step that is under way.
    new: Option<(Tensor<2>, Vec<i64>)>,
}

/// A batch as the loss sees it, each `[rows, projection]`.
#[derive(Clone)]
pub(crate) struct Projected {
    pub(crate) queries: Tensor<2>,
    pub(crate) keys: Tensor<2>,
    /// Those that the data lists, pair by pair.
    pub(crate) negatives: Option<Tensor<2>>,
}

/// What a batch's loss came to, and what it can be compared with.
pub(crate) struct Loss {
    pub(crate) tensor: Tensor<1>,
    pub(crate) value: f64,
    /// None where no closed form is known.
    pub(crate) floor: Option<f64>,
    pub(crate) ceiling: f64,
}

impl Criterion {
    /// The loss that settings ask for, on these things of `shape`. The encoder of a queue begins as the trained
    /// one does.
    pub(crate) fn new(
        settings: &Settings,
        (items, shape): (&Items, InputShape),
        pairs: &Pairs,
        device: &Device,
    ) -> Result<Self, Error> {
        let named = settings.loss.named()?;
        let mask = settings.loss.mask_labels;
        let (distinct, classes) = items.classes();
        if (named.labels || mask) && distinct.len() < 2 {
            let what = if mask { "mask_labels" } else { settings.loss.name.as_str() };
            return Err(Error::Setting(format!(
                "{what} needs data of at least two labels, but {} has {}: put the images of each class \
                 into a sub-folder of its own, or give texts a column `label`",
                settings.data,
                distinct.len()
            )));
        }
        let module = ContrastiveLoss::new(named.loss);
        let (least, most) = named.bounds;
        let module = module.with_log_scale_bounds(least, most)?;
        let queue = || {
            let seed = settings.seed;
            Ok::<_, Error>(Queue {
                model: Model::initial(&settings.encoder, shape, seed, device)?.no_grad(),
                momentum: settings.loss.momentum,
                most: settings.loss.queue,
                keys: None,
                classes: VecDeque::new(),
                new: None,
            })
        };
        let classes: Option<Vec<i64>> =
            (named.labels || mask).then(|| classes.iter().map(|&class| class as i64).collect());
        let negatives = Negatives::new(items, classes.as_deref());
        if negatives.per_pair > 0 && (named.queue || named.labels) {
            return Err(Error::Setting(format!(
                "{} has negatives of its own, but {} takes its negatives from elsewhere",
                settings.data, settings.loss.name
            )));
        }
        let queue = named.queue.then(queue).transpose()?;
        let module = if named.learned { module.learned(device) } else { module };
        // Weight decay would pull the temperature to 1; open_clip decays none of these, either.
        let own = OptimizerSettings {
            name: OptimizerName::AdamW,
            weight_decay: 0.0,
            clip: None,
            ..settings.optimizer
        };
        let highest = settings.optimizer.highest_rate(settings.batch.unwrap_or_default());
        Ok(Self {
            named,
            optimizer: Optimizer::new(&own, &module),
            module,
            share: match settings.optimizer.name {
                OptimizerName::AdamW => 1.0,
                OptimizerName::Sgd | OptimizerName::Lars => OptimizerSettings::ADAMW_RATE / highest,
            },
            classes,
            // Without labels, pairs may still be known to show the same thing.
            mask: mask || (!named.labels && (pairs.share_groups() || negatives.per_pair > 0)),
            queue,
            negatives,
        })
    }

    /// What the model makes of `2n` views, first every first view, and what follows: as many rows, or those of
    /// the first views alone where there are [`keys`](Self::keys).
    pub(crate) fn rows(&self, model: &Model, views: Input) -> Tensor<2> {
        let n = views.len() / (2 + self.negatives.per_pair);
        let elsewhere = self.queue.is_some() || self.has_constant_documents(model);
        model.project(if elsewhere { views.narrow(0, n) } else { views })
    }

    /// The keys of the second views that are constants, `[n, projection]`: those that a queue's encoder makes of
    /// them, or those that the model leaves as they are.
    pub(crate) fn keys(&self, model: &Model, views: &Input) -> Option<Tensor<2>> {
        let n = views.len() / 2;
        match &self.queue {
            Some(queue) => Some(queue.model.project(views.narrow(n, n)).detach()),
            None if self.has_constant_documents(model) => views.documents(),
            None => None,
        }
    }

    /// Whether documents, which the model leaves as they are, stand apart: their gradient would be a third of
    /// the work, and nobody asks for it.
    fn has_constant_documents(&self, model: &Model) -> bool {
        model.leaves_documents() && self.negatives.per_pair == 0
    }

    /// The loss of `pairs`, by their [`rows`](Self::rows), in as many parts as one likes, and
    /// [`keys`](Self::keys).
    pub(crate) fn loss(
        &mut self,
        rows: Vec<Tensor<2>>,
        keys: Option<Tensor<2>>,
        pairs: &[Pair],
    ) -> Result<Loss, Error> {
        self.loss_of(self.projected(rows, keys), pairs, None)
    }

    /// What the loss is of, out of [`rows`](Self::rows), in as many parts as one likes, and
    /// [`keys`](Self::keys).
    pub(crate) fn projected(&self, rows: Vec<Tensor<2>>, keys: Option<Tensor<2>>) -> Projected {
        if let Some(keys) = keys {
            return Projected { queries: Tensor::cat(rows, 0), keys, negatives: None };
        }
        let per_pair = self.negatives.per_pair;
        let (mut queries, mut keys, mut negatives) = (Vec::new(), Vec::new(), Vec::new());
        for rows in rows {
            let n = rows.dims()[0] / (2 + per_pair);
            queries.push(rows.clone().narrow(0, 0, n));
            keys.push(rows.clone().narrow(0, n, n));
            if per_pair > 0 {
                negatives.push(rows.narrow(0, 2 * n, per_pair * n));
            }
        }
        Projected {
            queries: Tensor::cat(queries, 0),
            keys: Tensor::cat(keys, 0),
            negatives: (!negatives.is_empty()).then(|| Tensor::cat(negatives, 0)),
        }
    }

    /// The loss of `pairs`, or of its share that the pairs `own` are.
    pub(crate) fn loss_of(
        &mut self,
        Projected { queries, keys, negatives }: Projected,
        pairs: &[Pair],
        own: Option<Range<usize>>,
    ) -> Result<Loss, Error> {
        let n = pairs.len();
        let classes: Option<Vec<i64>> = match &self.classes {
            Some(classes) => Some(pairs.iter().map(|pair| classes[pair.a]).collect()),
            None if self.mask => Some(pairs.iter().map(|pair| pair.group as i64).collect()),
            None => None,
        };
        let earlier = self.queue.as_ref().and_then(|queue| queue.keys.clone());
        let mut batch = PairBatch::new(queries, keys.clone());
        let mut ids = classes.clone().unwrap_or_default();
        if let Some(earlier) = earlier.clone() {
            batch = batch.with_negatives(earlier);
            ids.extend(self.queue.iter().flat_map(|queue| &queue.classes));
        }
        if let Some(negatives) = negatives {
            batch = batch.with_negatives(negatives);
            ids.extend(pairs.iter().flat_map(|pair| self.negatives.of(pair)));
        }
        if classes.is_some() {
            let ids = Tensor::<1, Int>::from_data(ids.as_slice(), &keys.device());
            batch = if self.mask { batch.with_ids(ids) } else { batch.with_labels(ids) };
        }
        // As long as the queue is empty, keys choose among those of the batch.
        let module = match &self.queue {
            Some(_) if earlier.is_none() => {
                let mut first =
                    ContrastiveLoss::new(self.named.loss.with_in_batch_negatives(true)?);
                first.log_scale.clone_from(&self.module.log_scale);
                first
            }
            _ => self.module.clone(),
        };
        let tensor = match own {
            None => module.try_forward_batch(batch)?,
            Some(own) => module.try_forward_share(batch, own)?,
        };
        let value = f64::from(numbers(tensor.clone())?[0]);
        let negatives = earlier.map(|earlier| earlier.dims()[0]);
        let (floor, ceiling) = self.range(n, negatives, &ids)?;
        if let Some(queue) = &mut self.queue {
            queue.new = Some((keys, classes.unwrap_or_default()));
        }
        Ok(Loss { tensor, value, floor, ceiling })
    }

    /// The least that a batch can reach, where that is known, and what it has where nothing is
    /// learned.
    fn range(
        &self,
        n: usize,
        queue: Option<usize>,
        ids: &[i64],
    ) -> Result<(Option<f64>, f64), Error> {
        let loss = self.current()?;
        // A queue of m rows is m candidates beside the key; an empty one is none, yet.
        let in_batch = loss.with_in_batch_negatives(true)?;
        if !self.mask {
            return Ok(match (queue, self.named.queue) {
                (Some(rows), _) => (None, in_batch.ceiling(rows + 1)),
                (None, true) => (in_batch.floor(n), in_batch.ceiling(n)),
                (None, false) => (loss.floor(n), loss.ceiling(n)),
            });
        }
        // Who is left out depends on the batch: its ceiling is the loss of one point for all.
        let loss = if queue.is_some() { loss } else { in_batch };
        let points = vec![1.0f32; ids.len()];
        let ids: Vec<u64> = ids.iter().map(|&id| id as u64).collect();
        let (pairs, earlier) = points.split_at(n);
        let mut batch = Batch::new(Embeddings::new(pairs, 1)?, Embeddings::new(pairs, 1)?);
        if !earlier.is_empty() {
            batch = batch.with_negatives(Embeddings::new(earlier, 1)?);
        }
        Ok((None, loss.value(batch.with_ids(&ids))?.mean))
    }

    /// The gradients of what the loss learns, among those of a backward pass.
    pub(crate) fn gradients(&self, of_all: &mut Gradients) -> GradientsParams {
        GradientsParams::from_module(of_all, &self.module)
    }

    /// What the loss learns.
    pub(crate) fn module(&self) -> &ContrastiveLoss {
        &self.module
    }

    /// Whether queries choose among keys and nothing else chooses, so that no other query matters to a row.
    pub(crate) fn is_one_way(&self) -> bool {
        let loss = self.module.settings();
        let weighted = matches!(loss.objective(), Objective::DecoupledWeighted { .. });
        let one_way = loss.form() == Form::OneWay && !loss.within_views() && !weighted;
        one_way || matches!(loss.objective(), Objective::Sigmoid { .. })
    }

    /// How many negatives the data lists of each pair.
    pub(crate) fn negatives_per_pair(&self) -> usize {
        self.negatives.per_pair
    }

    /// The model has taken its step; now what the loss learns takes its own, and the queue moves on.
    pub(crate) fn step(&mut self, rate: f64, gradients: GradientsParams, model: &Model) {
        if self.named.learned {
            let rate = rate * self.share;
            self.module = self.optimizer.step(rate, self.module.clone(), gradients).clamped();
        }
        if let Some(queue) = &mut self.queue {
            queue.step(model);
        }
    }

    /// What it carries from step to step.
    pub(crate) fn state(&self, into: &mut State) {
        if self.named.learned {
            into.put_module("loss", &self.module);
            into.put_all("loss_optimizer", self.optimizer.state());
        }
        if let Some(queue) = &self.queue {
            into.put_module("queue_model", &queue.model.snapshot());
            let keys = queue.keys.iter().map(|keys| ("keys".to_owned(), keys.to_data()));
            into.put_all("queue", keys.collect());
            into.put_numbers("queue.classes", queue.classes.iter().copied().collect());
        }
    }

    /// Takes back what it carried.
    pub(crate) fn restore(&mut self, from: &mut State, device: &Device) -> Result<(), Error> {
        if self.named.learned {
            self.module = from.take_module("loss", self.module.clone())?;
            self.optimizer.restore(from.take_all("loss_optimizer"))?;
        }
        if let Some(queue) = &mut self.queue {
            queue.model = from.take_module("queue_model", queue.model.clone())?;
            queue.classes = from.take_numbers("queue.classes")?.into();
            queue.keys = from.take("queue.keys").ok().map(|keys| Tensor::from_data(keys, device));
        }
        Ok(())
    }

    /// The loss with what was learned so far.
    fn current(&self) -> Result<kinfold::ContrastiveLoss, Error> {
        let mut loss = self.named.loss;
        if let Some(log_scale) = &self.module.log_scale {
            let log_scale = f64::from(numbers(log_scale.val())?[0]);
            loss = loss.with_temperature(Temperature::new((-log_scale).exp())?);
        }
        if let Some(bias) = self.bias()? {
            loss = loss.with_objective(Objective::Sigmoid { bias })?;
        }
        Ok(loss)
    }

    pub(crate) fn temperature(&self) -> Result<f64, Error> {
        Ok(self.current()?.temperature().get())
    }

    /// Whether the temperature is learned.
    pub(crate) fn learns(&self) -> bool {
        self.named.learned
    }

    /// The sigmoid's bias, where it is learned.
    pub(crate) fn bias(&self) -> Result<Option<f64>, Error> {
        let bias = self.module.bias.as_ref();
        bias.map(|bias| Ok(f64::from(numbers(bias.val())?[0]))).transpose()
    }
}

impl Queue {
    /// The step's keys join, the oldest leave, and the encoder follows `model`.
    fn step(&mut self, model: &Model) {
        let Some((keys, classes)) = self.new.take() else { return };
        let keys = match self.keys.take() {
            Some(earlier) => Tensor::cat(vec![earlier, keys], 0),
            None => keys,
        };
        let leave = keys.dims()[0].saturating_sub(self.most);
        self.keys = Some(keys.clone().narrow(0, leave, keys.dims()[0] - leave));
        self.classes.extend(classes);
        self.classes.drain(..leave.min(self.classes.len()));

        let mut weights = Weights(VecDeque::new());
        model.visit(&mut weights);
        let momentum = self.momentum;
        self.model = self.model.clone().map(&mut Follow { weights, momentum });
    }
}

/// A model's weights in order, each flat.
struct Weights(VecDeque<Tensor<1>>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let x = param.val().detach();
        let count = x.shape().num_elements();
        self.0.push_back(x.reshape([count]));
    }
}

/// Moves a model of the same architecture towards these weights.
struct Follow {
    weights: Weights,
    momentum: f64,
}

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(other) = self.weights.0.pop_front() else { return param };
        param.map(|x| {
            let other = other.reshape(x.shape());
            x.detach() * self.momentum + other * (1.0 - self.momentum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::input;
    use kinfold_nn::encoders::ImageShape;

    fn model(seed: u64, device: &Device) -> Model {
        let shape = ImageShape { size: 8, channels: 1 };
        Model::random(&Settings::default().encoder, shape, seed, device).expect("an encoder")
    }

    #[test]
    fn negatives_that_the_data_lists_are_candidates_of_all() -> Result<(), Error> {
        use kinfold_data::{Kind, PairSettings};
        let device = Device::flex().autodiff();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pairs.csv");
        // The last negative is the first pair's own positive, and none of it.
        let rows = "anchor,positive,negative\nab,cd,ef\ngh,ij,kl\nmn,op,cd\n";
        std::fs::write(&file, rows).expect("written");
        let mut settings = Settings::of_kind(Kind::Texts);
        settings.data = file.display().to_string();
        settings.text.vocabulary = Some(100);
        settings.encoder.embedding = Some(5);
        let data = settings.read()?;
        let split = data.split(0.0);
        let pairs = Pairs::new(data.items(), &split, &PairSettings::default())?;
        let shape = settings.shape(&data);
        let mut criterion = Criterion::new(&settings, (data.items(), shape), &pairs, &device)?;
        let model = Model::random(&settings.encoder, shape, 0, &device)?;
        let batch = pairs.batches(3, 0, 0).remove(0);
        let parts = |parts: &[&[Pair]]| -> Result<Vec<Tensor<2>>, Error> {
            let views = |part: &&[Pair]| data.draw_batch(part, &settings.view, 0, 0);
            let rows = |part| Ok(criterion.rows(&model, input(views(part)?, &device)));
            parts.iter().map(rows).collect()
        };
        let (whole, two) = (parts(&[&batch])?, parts(&[&batch[..1], &batch[1..]])?);
        let whole = criterion.loss(whole, None, &batch)?;
        let two = criterion.loss(two, None, &batch)?;
        assert!((whole.value - two.value).abs() < 1e-6);

        // The same by the library: ids of pairs, then of negatives.
        let of = |rows: Vec<usize>| numbers(model.embed(input(data.plain(&rows)?, &device)));
        let queries = of(batch.iter().map(|pair| pair.a).collect())?;
        let keys = of(batch.iter().map(|pair| pair.b).collect())?;
        let negatives = batch.iter().map(|pair| data.items().negatives(pair.place)[0]);
        let negatives: Vec<usize> = negatives.collect();
        let group = |row: &usize| match &*data.items().names[*row] {
            "cd" => 0,
            _ => 100 + *row as u64,
        };
        let ids: Vec<u64> = batch.iter().map(|pair| pair.place as u64).collect();
        let ids: Vec<u64> = ids.into_iter().chain(negatives.iter().map(group)).collect();
        let negatives = of(negatives)?;
        let batch = Batch::new(Embeddings::new(&queries, 5)?, Embeddings::new(&keys, 5)?)
            .with_negatives(Embeddings::new(&negatives, 5)?)
            .with_ids(&ids);
        let value = settings.loss.loss()?.value(batch)?.mean;
        assert!((whole.value - value).abs() < 1e-5, "{} {value}", whole.value);
        // Five candidates, but for the first pair, whose own positive is left out.
        let ceiling = (2.0 * 6f64.ln() + 5f64.ln()) / 3.0;
        assert!((whole.ceiling - ceiling).abs() < 1e-6, "{} {ceiling}", whole.ceiling);
        Ok(())
    }

    #[test]
    fn the_encoder_of_a_queue_follows_slowly_and_the_queue_forgets() -> Result<(), Error> {
        let device = Device::flex().autodiff();
        let mut settings = Settings::default();
        settings.loss.name = "moco".to_owned();
        settings.loss.queue = 7;
        settings.loss.momentum = 0.75;
        let data = settings.read()?;
        let pairs = Pairs::new(data.items(), &data.split(0.2), &settings.pairs)?;
        let of_data = (data.items(), settings.shape(&data));
        let mut criterion = Criterion::new(&settings, of_data, &pairs, &device)?;
        let of = |model: &Model| -> Result<Vec<f32>, Error> {
            let mut weights = Weights(VecDeque::new());
            model.visit(&mut weights);
            weights.0.into_iter().map(numbers).collect::<Result<Vec<_>, _>>().map(|x| x.concat())
        };
        let queue = |criterion: &Criterion| {
            let queue = criterion.queue.as_ref().expect("moco has a queue");
            (queue.model.clone(), queue.keys.as_ref().map_or(0, |keys| keys.dims()[0]))
        };
        let trained = model(1, &device);
        let begin = of(&queue(&criterion).0)?;
        for (step, rows) in [(1, 4), (2, 7), (3, 7)] {
            let which = [0, 1, 2, 3].map(|row| Pair {
                a: row,
                b: row,
                pose: 0,
                group: row,
                key: row,
                place: 0,
            });
            let views = input(data.plain(&[0, 1, 2, 3, 4, 5, 6, 7])?, &device);
            let keys = criterion.keys(&trained, &views);
            let loss = criterion.loss(vec![criterion.rows(&trained, views)], keys, &which)?;
            // At first the other three keys of the batch, then the queue's.
            let candidates = [4.0f64, 5.0, 8.0][step - 1];
            assert!((loss.ceiling - candidates.ln()).abs() < 1e-9, "{}", loss.ceiling);
            let before = of(&queue(&criterion).0)?;
            let of_loss = criterion.gradients(&mut loss.tensor.backward());
            criterion.step(1e-3, of_loss, &trained);
            let (model, keys) = queue(&criterion);
            assert_eq!(keys, rows);
            for ((new, old), towards) in of(&model)?.iter().zip(&before).zip(of(&trained)?) {
                assert!((new - (0.75 * old + 0.25 * towards)).abs() < 1e-6);
            }
        }
        assert_ne!(of(&queue(&criterion).0)?, begin);
        Ok(())
    }
}
