//! The loss of a run, and what it carries from step to step: a learned temperature and bias, the encoder that
//! keys come from where it is not the trained one, and a queue of its earlier keys.
//!
//! Input: a model, two views of each of some images. Output: their projections or predictions, the loss of
//! these, and after the model's step its own.
//!
//! Whatever the method, a loss is of queries that each have a key. SimCLR's is one of all pairs. The other
//! methods' is the mean of two: first views are queries and the second views' keys, and the other way round.

use crate::Error;
use crate::loss::Named;
use crate::moving_average::MovingAverage;
use crate::optimizer::Optimizer;
use crate::run::State;
use crate::settings::{Method, OptimizerName, OptimizerSettings, Settings};
use crate::tensors::numbers;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Int, Tensor};
use kinfold::{Batch, Embeddings, Form, Objective, Temperature};
use kinfold_burn::{ContrastiveLoss, PairBatch};
use kinfold_data::{Items, Pair, Pairs};
use kinfold_nn::encoders::{Input, InputShape, Model};
use std::collections::VecDeque;
use std::ops::Range;

pub(crate) struct Criterion {
    method: Method,
    named: Named,
    module: ContrastiveLoss,
    optimizer: Optimizer,
    /// What the model's learning rate is multiplied by for what the loss learns.
    share: f64,
    /// Each row's class, where the loss wants to know.
    classes: Option<Vec<i64>>,
    /// Whether pairs of one class, or else of one group, are no negatives of each other.
    mask: bool,
    momentum_encoder: Option<MomentumEncoder>,
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

/// What makes keys: it follows the trained model slowly.
struct MomentumEncoder {
    model: MovingAverage,
    /// As it is given.
    momentum: Option<f64>,
}

/// Earlier keys of the momentum encoder (MoCo, He et al. 2020).
struct Queue {
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
        let (method, named) = (settings.method, settings.named()?);
        let mask = settings.loss.mask_labels;
        let (distinct, classes) = items.classes();
        if (named.labels || mask) && distinct.len() < 2 {
            let what = if mask { "mask_labels" } else { &named.name };
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
        let momentum_encoder = || {
            let model = Model::initial(&settings.encoder, shape, settings.seed, device)?;
            let momentum = settings.loss.momentum;
            Ok::<_, Error>(MomentumEncoder { model: MovingAverage::new(model), momentum })
        };
        let queue = || {
            let most = settings.loss.queue;
            Queue { most, keys: None, classes: VecDeque::new(), new: None }
        };
        let classes: Option<Vec<i64>> =
            (named.labels || mask).then(|| classes.iter().map(|&class| class as i64).collect());
        let negatives = Negatives::new(items, classes.as_deref());
        if negatives.per_pair > 0 && (named.queue || named.labels) {
            return Err(Error::Setting(format!(
                "{} has negatives of its own, but {} takes its negatives from elsewhere",
                settings.data, named.name
            )));
        }
        let follows = named.queue || method.has_momentum_encoder();
        let momentum_encoder = follows.then(momentum_encoder).transpose()?;
        let queue = named.queue.then(queue);
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
            method,
            momentum_encoder,
            optimizer: Optimizer::new(&own, &module),
            module,
            share: match settings.optimizer.name {
                OptimizerName::AdamW => 1.0,
                OptimizerName::Sgd | OptimizerName::Lars => OptimizerSettings::ADAMW_RATE / highest,
            },
            classes,
            // Without labels, pairs may still be known to show the same thing.
            mask: mask || (!named.labels && (pairs.share_groups() || negatives.per_pair > 0)),
            named,
            queue,
            negatives,
        })
    }

    /// What the model makes of `2n` views, first every first view, and what follows: as many rows, or those of
    /// the first views alone where [`keys`](Self::keys) are the second views'. A method that predicts has
    /// predictions here, and SimSiam the projections behind them.
    pub(crate) fn rows(&self, model: &Model, views: Input) -> Tensor<2> {
        if self.method.predicts() {
            let projections = model.project(views);
            let predictions = model.predict(projections.clone());
            return match self.method.has_momentum_encoder() {
                true => predictions,
                false => Tensor::cat(vec![predictions, projections.detach()], 0),
            };
        }
        let n = views.len() / (2 + self.negatives.per_pair);
        let elsewhere = self.queue.is_some() || self.has_constant_documents(model);
        model.project(if elsewhere { views.narrow(0, n) } else { views })
    }

    /// The keys that are constants: those that a momentum encoder makes of both views or, for a queue, of the
    /// second ones, `[n, projection]`; or those of the second views that the model leaves as they are.
    pub(crate) fn keys(&self, model: &Model, views: &Input) -> Option<Tensor<2>> {
        let n = views.len() / 2;
        match &self.momentum_encoder {
            Some(encoder) => {
                let seen = if self.queue.is_some() { views.narrow(n, n) } else { views.clone() };
                Some(encoder.model.model().project(seen).detach())
            }
            None if self.has_constant_documents(model) => views.documents(),
            None => None,
        }
    }

    /// Whether keys have no gradient.
    pub(crate) fn has_constant_keys(&self, model: &Model) -> bool {
        self.momentum_encoder.is_some()
            || self.method.predicts()
            || self.has_constant_documents(model)
    }

    /// Whether documents, which the model leaves as they are, stand apart: their gradient would be a third of
    /// the work, and nobody asks for it.
    fn has_constant_documents(&self, model: &Model) -> bool {
        model.leaves_documents() && self.negatives.per_pair == 0
    }

    /// The loss of `pairs`, by their [`rows`](Self::rows) and [`keys`](Self::keys), both in as many parts as one
    /// likes.
    pub(crate) fn loss(
        &mut self,
        rows: Vec<Tensor<2>>,
        keys: Vec<Tensor<2>>,
        pairs: &[Pair],
    ) -> Result<Loss, Error> {
        let (there, back) = self.projected(rows, keys);
        let mut loss_of = |part| self.loss_of(part, pairs, None);
        Ok(loss_of(there)?.and(back.map(loss_of).transpose()?))
    }

    /// What the loss is of, out of [`rows`](Self::rows) and [`keys`](Self::keys), both in as many parts as one
    /// likes. Of methods that predict it is two parts, first views from second ones and the other way.
    pub(crate) fn projected(
        &self,
        rows: Vec<Tensor<2>>,
        mut keys: Vec<Tensor<2>>,
    ) -> (Projected, Option<Projected>) {
        let part = |x: &Tensor<2>, place: usize, of: usize| {
            let n = x.dims()[0] / of;
            x.clone().narrow(0, place * n, n)
        };
        let all = |parts: &[Tensor<2>], place: usize, of: usize| {
            Tensor::cat(parts.iter().map(|x| part(x, place, of)).collect(), 0)
        };
        if self.method.predicts() {
            let mut predictions = rows;
            if keys.is_empty() {
                keys = predictions.iter().map(|rows| part(rows, 1, 2).detach()).collect();
                predictions = predictions.iter().map(|rows| part(rows, 0, 2)).collect();
            }
            let [there, back] = [0, 1].map(|view| Projected {
                queries: all(&predictions, view, 2),
                keys: all(&keys, 1 - view, 2),
                negatives: None,
            });
            return (there, Some(back));
        }
        if !keys.is_empty() {
            let (queries, keys) = (Tensor::cat(rows, 0), Tensor::cat(keys, 0));
            return (Projected { queries, keys, negatives: None }, None);
        }
        let per_pair = self.negatives.per_pair;
        let negatives = |rows: &Tensor<2>| {
            let n = rows.dims()[0] / (2 + per_pair);
            rows.clone().narrow(0, 2 * n, per_pair * n)
        };
        let of = 2 + per_pair;
        let negatives =
            (per_pair > 0).then(|| Tensor::cat(rows.iter().map(negatives).collect(), 0));
        (Projected { queries: all(&rows, 0, of), keys: all(&rows, 1, of), negatives }, None)
    }

    /// The loss of `pairs` by one part of [`projected`](Self::projected), or of its share that the pairs `own` are;
    /// where there are two parts, each is half of the loss.
    pub(crate) fn loss_of(
        &mut self,
        Projected { queries, keys, negatives }: Projected,
        pairs: &[Pair],
        own: Option<Range<usize>>,
    ) -> Result<Loss, Error> {
        if self.method.has_no_negatives() {
            return Ok(without_negatives(queries, keys, own)?.halved());
        }
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
        let loss = Loss { tensor, value, floor, ceiling };
        Ok(if self.method.predicts() { loss.halved() } else { loss })
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

    /// The model has taken its step, when `done` of all steps are taken, from 0 to 1; now what the loss learns
    /// takes its own, the momentum encoder follows, and the queue moves on.
    pub(crate) fn step(&mut self, rate: f64, gradients: GradientsParams, model: &Model, done: f64) {
        if self.named.learned {
            let rate = rate * self.share;
            self.module = self.optimizer.step(rate, self.module.clone(), gradients).clamped();
        }
        if let Some(MomentumEncoder { model: follower, momentum }) = &mut self.momentum_encoder {
            follower.follow(model, self.method.momentum(*momentum, done));
        }
        if let Some(queue) = &mut self.queue {
            queue.step();
        }
    }

    /// What it carries from step to step.
    pub(crate) fn state(&self, into: &mut State) {
        if self.named.learned {
            into.put_module("loss", &self.module);
            into.put_all("loss_optimizer", self.optimizer.state());
        }
        if let Some(encoder) = &self.momentum_encoder {
            encoder.model.state("momentum_encoder", into);
        }
        if let Some(queue) = &self.queue {
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
        if let Some(encoder) = &mut self.momentum_encoder {
            encoder.model.restore("momentum_encoder", from)?;
        }
        if let Some(queue) = &mut self.queue {
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
    /// The step's keys join, and the oldest leave.
    fn step(&mut self) {
        let Some((keys, classes)) = self.new.take() else { return };
        let keys = match self.keys.take() {
            Some(earlier) => Tensor::cat(vec![earlier, keys], 0),
            None => keys,
        };
        let leave = keys.dims()[0].saturating_sub(self.most);
        self.keys = Some(keys.clone().narrow(0, leave, keys.dims()[0] - leave));
        self.classes.extend(classes);
        self.classes.drain(..leave.min(self.classes.len()));
    }
}

impl Loss {
    /// Both parts of a loss, where there are two.
    pub(crate) fn and(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        Self {
            tensor: self.tensor + other.tensor,
            value: self.value + other.value,
            floor: self.floor.zip(other.floor).map(|(a, b)| a + b),
            ceiling: self.ceiling + other.ceiling,
        }
    }

    /// Half of it.
    fn halved(self) -> Self {
        Self {
            tensor: self.tensor / 2.0,
            value: self.value / 2.0,
            floor: self.floor.map(|floor| floor / 2.0),
            ceiling: self.ceiling / 2.0,
        }
    }
}

/// The mean of 2 − 2 cos of each row's query and its own key (BYOL, Grill et al. 2020), of which the rows `own`
/// are a share. Where nothing is learned a cosine is about 0. The least is 0, and that of one point for all, too:
/// it is no floor that says that something was learned.
fn without_negatives(
    queries: Tensor<2>,
    keys: Tensor<2>,
    own: Option<Range<usize>>,
) -> Result<Loss, Error> {
    let n = queries.dims()[0];
    let own = own.unwrap_or(0..n);
    let unit = |x: Tensor<2>| {
        let x = x.narrow(0, own.start, own.len());
        let length = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(kinfold::NORM_FLOOR);
        x / length
    };
    let cosines = unit(queries.clone()) * unit(keys.clone());
    let tensor = (cosines.sum() * -2.0 + 2.0 * own.len() as f64) / n as f64;
    let value = f64::from(numbers(tensor.clone())?[0]);
    if !value.is_finite() {
        // It says which number is not finite.
        let dim = queries.dims()[1];
        for x in [queries, keys] {
            let x = numbers(x)?;
            let x = Embeddings::new(&x, dim)?;
            kinfold::ContrastiveLoss::info_nce(Temperature::new(1.0)?).value(Batch::new(x, x))?;
        }
    }
    Ok(Loss { tensor, value, floor: None, ceiling: 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moving_average::tests::numbers as weights;
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
        let whole = criterion.loss(whole, Vec::new(), &batch)?;
        let two = criterion.loss(two, Vec::new(), &batch)?;
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
        let value = settings.contrastive_loss()?.value(batch)?.mean;
        assert!((whole.value - value).abs() < 1e-5, "{} {value}", whole.value);
        // Five candidates, but for the first pair, whose own positive is left out.
        let ceiling = (2.0 * 6f64.ln() + 5f64.ln()) / 3.0;
        assert!((whole.ceiling - ceiling).abs() < 1e-6, "{} {ceiling}", whole.ceiling);
        Ok(())
    }

    /// Against the definitions, in f64, by what the model and the momentum encoder make of the views.
    #[test]
    fn methods_that_predict_are_as_their_papers_have_them() -> Result<(), Error> {
        let device = Device::flex().autodiff();
        for method in Method::ALL.into_iter().filter(|method| method.predicts()) {
            let mut settings = Settings { method, batch: Some(4), ..Settings::default() };
            let data = settings.read()?;
            let pairs = Pairs::new(data.items(), &data.split(0.2), &settings.pairs)?;
            let of_data = (data.items(), settings.shape(&data));
            settings = settings.decided(of_data.1, &pairs)?;
            let mut criterion = Criterion::new(&settings, of_data, &pairs, &device)?;
            let model = Model::random(&settings.encoder, of_data.1, 1, &device)?;
            let batch = pairs.batches(4, 0, 0).remove(0);
            let views = input(data.draw_batch(&batch, &settings.view, 0, 0)?, &device);
            let keys: Vec<_> = criterion.keys(&model, &views).into_iter().collect();
            let rows = criterion.rows(&model, views.clone());

            let rows_of = |x: Tensor<2>| -> Result<Vec<Vec<f64>>, Error> {
                let dim = x.dims()[1];
                let unit = |row: &[f32]| {
                    let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    row.iter().map(|&x| f64::from(x) / length).collect()
                };
                Ok(numbers(x)?.chunks(dim).map(unit).collect())
            };
            let projected = model.project(views.clone());
            let queries = rows_of(model.predict(projected.clone()))?;
            let keys_of = match method {
                Method::Simsiam => projected,
                // It begins as the trained model of the run's own seed does.
                _ => Model::random(&settings.encoder, of_data.1, settings.seed, &device)?
                    .project(views),
            };
            let keys_of = rows_of(keys_of)?;
            let cos = |i: usize, j: usize| -> f64 {
                queries[i].iter().zip(&keys_of[j]).map(|(a, b)| a * b).sum()
            };
            let of_row = |i: usize| {
                let (own, others) = if i < 4 { (i + 4, 4..8) } else { (i - 4, 0..4) };
                match method {
                    Method::MocoV3 => {
                        others.map(|j| (cos(i, j) / 0.2).exp()).sum::<f64>().ln()
                            - cos(i, own) / 0.2
                    }
                    _ => 2.0 - 2.0 * cos(i, own),
                }
            };
            let expected = (0..8).map(of_row).sum::<f64>() / 8.0;
            let loss = criterion.loss(vec![rows], keys, &batch)?;
            assert!((loss.value - expected).abs() < 1e-5, "{method:?}: {} {expected}", loss.value);
            let ceiling = if method == Method::MocoV3 { 4f64.ln() } else { 2.0 };
            assert!((loss.ceiling - ceiling).abs() < 1e-9);
            let gradients = loss.tensor.backward();
            let of_model = GradientsParams::from_module(&mut { gradients }, &model);
            assert!(!of_model.is_empty());
        }
        Ok(())
    }

    #[test]
    fn the_encoder_of_a_queue_follows_slowly_and_the_queue_forgets() -> Result<(), Error> {
        let device = Device::flex().autodiff();
        let mut settings = Settings::default();
        settings.loss.name = Some("moco".to_owned());
        settings.loss.queue = 7;
        settings.loss.momentum = Some(0.75);
        let data = settings.read()?;
        let pairs = Pairs::new(data.items(), &data.split(0.2), &settings.pairs)?;
        let of_data = (data.items(), settings.shape(&data));
        let mut criterion = Criterion::new(&settings, of_data, &pairs, &device)?;
        let queue = |criterion: &Criterion| {
            let encoder = criterion.momentum_encoder.as_ref().expect("moco has one");
            let queue = criterion.queue.as_ref().expect("moco has a queue");
            (encoder.model.model().clone(), queue.keys.as_ref().map_or(0, |keys| keys.dims()[0]))
        };
        let trained = model(1, &device);
        let begin = weights(&queue(&criterion).0);
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
            let keys = criterion.keys(&trained, &views).into_iter().collect();
            let loss = criterion.loss(vec![criterion.rows(&trained, views)], keys, &which)?;
            // At first the other three keys of the batch, then the queue's.
            let candidates = [4.0f64, 5.0, 8.0][step - 1];
            assert!((loss.ceiling - candidates.ln()).abs() < 1e-9, "{}", loss.ceiling);
            let before = weights(&queue(&criterion).0);
            let of_loss = criterion.gradients(&mut loss.tensor.backward());
            criterion.step(1e-3, of_loss, &trained, 0.5);
            let (model, keys) = queue(&criterion);
            assert_eq!(keys, rows);
            for ((new, old), towards) in weights(&model).iter().zip(&before).zip(weights(&trained))
            {
                assert!((new - (0.75 * old + 0.25 * towards)).abs() < 1e-6);
            }
        }
        assert_ne!(weights(&queue(&criterion).0), begin);
        Ok(())
    }
}
