//! A loss with its settings, checked and computed for Python.

use crate::memory::{Numbers, Plain, Rows, by_dtype, refused};
use crate::threads::OpenMp;
use kinfold::loss::{BatchShape, GuideShape, NegativesShape};
use kinfold::runtime::Execution;
use kinfold::{
    Batch, ContrastiveLoss, Element, GradientMut, NORM_FLOOR, Objective, ParameterGradient, Prefix,
    Reduction, Similarity, Temperature, Value,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Settings, validated once. Names are those of `kinfold.torch.contrastive`, and so are the defaults.
#[pyclass(frozen, module = "kinfold._native")]
pub(crate) struct Loss(ContrastiveLoss);

/// Value, derivative by log(1/τ), derivative by the sigmoid's bias.
type Derivatives = (f64, f64, f64);

/// The shapes of a guide's queries, keys and negatives.
type Guide = ([usize; 2], [usize; 2], Option<[usize; 2]>);

#[pymethods]
impl Loss {
    #[new]
    #[pyo3(signature = (*, form = "one-way", objective = "softmax", temperature = 0.1, reduction = "mean",
        normalize = true, margin = 0.0, label_smoothing = 0.0, factor = 1.0, norm_floor = NORM_FLOOR,
        in_batch_negatives = true, within_views = false, offset = 0, sigma = 0.5, positive_share = 0.1,
        concentration = 1.0, q = 0.5, lam = 0.025, bias = -10.0, matryoshka_dims = vec![], matryoshka_weights = None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keywords")]
    fn new(
        form: &str,
        objective: &str,
        temperature: f64,
        reduction: &str,
        normalize: bool,
        margin: f64,
        label_smoothing: f64,
        factor: f64,
        norm_floor: f64,
        in_batch_negatives: bool,
        within_views: bool,
        offset: usize,
        sigma: f64,
        positive_share: f64,
        concentration: f64,
        q: f64,
        lam: f64,
        bias: f64,
        matryoshka_dims: Vec<usize>,
        matryoshka_weights: Option<Vec<f64>>,
    ) -> PyResult<Self> {
        let objective = match objective {
            "softmax" => Objective::Softmax,
            "decoupled" => Objective::Decoupled,
            "decoupled-weighted" => Objective::DecoupledWeighted { sigma },
            "debiased" => Objective::Debiased { positive_share },
            "hard-negatives" => Objective::HardNegatives { positive_share, concentration },
            "sup-con-outside" => Objective::SupConOutside,
            "sup-con-inside" => Objective::SupConInside,
            "rince" => Objective::Rince { q, lambda: lam },
            "sigmoid" => Objective::Sigmoid { bias },
            other => {
                let known = "softmax, decoupled, decoupled-weighted, debiased, hard-negatives, \
                             sup-con-outside, sup-con-inside, rince, sigmoid";
                return Err(not_among("objective", other, known));
            }
        };
        let temperature = Temperature::new(temperature).map_err(refused)?;
        let loss = match form {
            "one-way" => ContrastiveLoss::info_nce(temperature),
            "both-ways" => ContrastiveLoss::clip(temperature),
            "nt-xent" => ContrastiveLoss::nt_xent(temperature),
            other => return Err(not_among("form", other, "one-way, both-ways, nt-xent")),
        };
        let reduction = match reduction {
            "mean" => Reduction::Mean,
            "sum" => Reduction::Sum,
            other => return Err(not_among("reduction", other, "mean, sum")),
        };
        let prefixes = prefixes(&matryoshka_dims, matryoshka_weights.as_deref())?;
        let similarity = if normalize { Similarity::Cosine } else { Similarity::Dot };
        loss.with_similarity(similarity)
            .with_reduction(reduction)
            .with_offset(offset)
            .with_objective(objective)
            .and_then(|loss| loss.with_margin(margin))
            .and_then(|loss| loss.with_label_smoothing(label_smoothing))
            .and_then(|loss| loss.with_factor(factor))
            .and_then(|loss| loss.with_norm_floor(norm_floor))
            .and_then(|loss| loss.with_in_batch_negatives(in_batch_negatives))
            .and_then(|loss| loss.with_within_views(within_views))
            .and_then(|loss| loss.with_matryoshka(&prefixes))
            .map(Self)
            .map_err(refused)
    }

    /// All settings in one string, for PyTorch, whose operations take no object of ours.
    #[getter]
    fn settings(&self) -> PyResult<String> {
        serde_json::to_string(&self.0).map_err(|e| PyValueError::new_err(e.to_string()))
    }

    /// The loss of [`settings`](Self::settings).
    #[staticmethod]
    fn of(settings: &str) -> PyResult<Self> {
        let loss = serde_json::from_str(settings).map_err(|e| PyValueError::new_err(e.to_string()));
        loss.map(Self)
    }

    /// Refuses a batch of which that can be told by its shapes.
    #[pyo3(signature = (queries, keys, negatives, ids, labels, weights, guide))]
    #[expect(clippy::too_many_arguments, reason = "everything that a batch may have")]
    fn check(
        &self,
        queries: [usize; 2],
        keys: Option<[usize; 2]>,
        negatives: Option<Vec<usize>>,
        ids: Option<usize>,
        labels: Option<usize>,
        weights: Option<usize>,
        guide: Option<Guide>,
    ) -> PyResult<()> {
        let negatives = match negatives.as_deref() {
            None => None,
            Some(&[rows, dim]) => Some(NegativesShape::Shared([rows, dim])),
            Some(&[rows, each, dim]) => Some(NegativesShape::PerQuery([rows, each, dim])),
            Some(other) => {
                let message =
                    format!("negatives have shape {other:?}, but must be [n, d] or [n, m, d]");
                return Err(PyValueError::new_err(message));
            }
        };
        let guide = guide.map(|(queries, keys, negatives)| GuideShape { queries, keys, negatives });
        let shape =
            BatchShape { queries, keys, negatives, ids, labels, row_weights: weights, guide };
        self.0.check(&shape).map_err(refused)
    }

    /// The least value that so many pairs can reach, where it is known; in nats.
    fn floor(&self, pairs: usize) -> Option<f64> {
        self.0.floor(pairs)
    }

    /// The value when nothing has been learned, or all has collapsed into one point; in nats.
    fn ceiling(&self, pairs: usize) -> f64 {
        self.0.ceiling(pairs)
    }

    /// The loss of a batch. `scale` is 1/τ where it is learned. Each row's loss is written into `rows`,
    /// and gradients into `gradients`, those of queries, keys and negatives, in f64 for f64 and else
    /// in f32. `open_mp` is the address of `GOMP_parallel` where threads are to be OpenMP's.
    #[pyo3(signature = (dtype, threads, open_mp, queries, keys, negatives, per_query, ids, labels, weights, guide,
        scale, bias, rows, gradients))]
    #[expect(clippy::too_many_arguments, reason = "one crossing for all there is")]
    fn compute(
        &self,
        py: Python<'_>,
        dtype: &str,
        threads: usize,
        open_mp: Option<usize>,
        queries: Rows,
        keys: Option<Rows>,
        negatives: Option<Rows>,
        per_query: bool,
        ids: Option<Numbers>,
        labels: Option<Numbers>,
        weights: Option<Numbers>,
        guide: Option<(Rows, Rows, Option<Rows>)>,
        scale: Option<f64>,
        bias: Option<f64>,
        rows: Option<Numbers>,
        gradients: Option<(Numbers, Numbers, Numbers)>,
    ) -> PyResult<Derivatives> {
        let mut loss = self.0.with_execution(Execution::new().with_threads(threads));
        if let Some(scale) = scale {
            loss = loss.with_temperature(Temperature::new(scale.recip()).map_err(refused)?);
        }
        if let Some(bias) = bias {
            loss = loss.with_objective(Objective::Sigmoid { bias }).map_err(refused)?;
        }
        let open_mp = open_mp.filter(|_| threads > 1 && queries.are_worth_threads()).map(OpenMp);
        let task = Task { loss, queries, keys, negatives, per_query, ids, labels, weights, guide };
        let run = || by_dtype!(dtype, T => task.run::<T>(rows, gradients));
        py.detach(|| match open_mp {
            Some(open_mp) => open_mp.run(threads, run),
            None => run(),
        })
    }
}

/// Prefixes of these dimensions, with weights of 1 unless some are given.
fn prefixes(dims: &[usize], weights: Option<&[f64]>) -> PyResult<Vec<Prefix>> {
    let Some(weights) = weights else {
        return Ok(dims.iter().map(|&dim| Prefix::new(dim)).collect());
    };
    if weights.len() != dims.len() {
        let (given, needed) = (weights.len(), dims.len());
        let message = format!("there are {given} matryoshka_weights but {needed} matryoshka_dims");
        return Err(PyValueError::new_err(message));
    }
    Ok(dims.iter().zip(weights).map(|(&dim, &weight)| Prefix { dim, weight }).collect())
}

fn not_among(what: &str, given: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("there is no {what} `{given}`; there are: {known}"))
}

/// A loss and its batch, where Python holds it.
struct Task {
    loss: ContrastiveLoss,
    queries: Rows,
    keys: Option<Rows>,
    negatives: Option<Rows>,
    per_query: bool,
    ids: Option<Numbers>,
    labels: Option<Numbers>,
    weights: Option<Numbers>,
    guide: Option<(Rows, Rows, Option<Rows>)>,
}

impl Task {
    fn run<T>(
        &self,
        rows: Option<Numbers>,
        gradients: Option<(Numbers, Numbers, Numbers)>,
    ) -> PyResult<Derivatives>
    where
        T: Element + Plain,
        T::Real: Plain,
    {
        let batch = self.batch::<T>()?;
        let value = match gradients {
            None => self.loss.value(batch).map(|value| (value, ParameterGradient::default())),
            Some((mut queries, mut keys, mut negatives)) => {
                let gradient = GradientMut::new(queries.write()?, keys.write()?)
                    .with_negatives(negatives.write()?);
                self.loss.value_and_gradient_into(batch, gradient)
            }
        };
        let (Value { mean, sum, rows: each, .. }, parameters) = value.map_err(refused)?;
        if let Some(mut rows) = rows {
            let rows = rows.write::<f64>()?;
            if rows.len() != each.len() {
                let (given, needed) = (rows.len(), each.len());
                return Err(PyValueError::new_err(format!(
                    "the buffer for rows holds {given} numbers, but {needed} are needed"
                )));
            }
            rows.copy_from_slice(&each);
        }
        Ok((self.loss.reduced(mean, sum), parameters.log_scale, parameters.bias))
    }

    fn batch<T: Element + Plain>(&self) -> PyResult<Batch<'_, T>> {
        let queries = self.queries.embeddings()?;
        let labels = self.labels.as_ref().map(Numbers::read::<u64>).transpose()?;
        let mut batch = match (&self.keys, labels) {
            (Some(keys), _) => Batch::new(queries, keys.embeddings()?),
            (None, Some(labels)) => Batch::labelled(queries, labels),
            (None, None) => {
                return Err(PyValueError::new_err("keys are needed, or labels in their place"));
            }
        };
        if let Some(labels) = labels {
            batch = batch.with_labels(labels);
        }
        if let Some(negatives) = &self.negatives {
            let negatives = negatives.embeddings()?;
            batch = match self.per_query {
                true => batch.with_negatives_per_query(negatives),
                false => batch.with_negatives(negatives),
            };
        }
        if let Some(ids) = &self.ids {
            batch = batch.with_ids(ids.read()?);
        }
        if let Some(weights) = &self.weights {
            batch = batch.with_row_weights(weights.read()?);
        }
        if let Some((queries, keys, negatives)) = &self.guide {
            let negatives = negatives.as_ref().map(Rows::embeddings).transpose()?;
            batch = batch.with_guide(queries.embeddings()?, keys.embeddings()?, negatives);
        }
        Ok(batch)
    }
}
