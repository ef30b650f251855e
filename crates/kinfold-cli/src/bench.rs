//! The loss on this machine, beside its best matrix product and beside the code that builds the
//! n × n matrix.
//!
//! Input: a loss and a shape. Output: seconds, operations per second, memory. The contestants
//! run in turn, so that a machine that others use, too, slows them alike; medians are quoted.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kinfold::runtime::Gemm;
use kinfold::{ContrastiveLoss, Embeddings, Form, GradientMut, Temperature};
use kinfold_train::run::peak_memory_bytes;
use kinfold_train::{Error, memory};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Instant;

/// Side of the product that the machine's speed is taken from.
const GEMM: usize = 4096;
/// Rounds: at least so many, and more while they take less than so many seconds together.
const ROUNDS: (usize, usize) = (3, 21);
const SECONDS: f64 = 10.0;
/// Matrices of n × n that the dense computation and its backward hold, roughly.
const DENSE_MATRICES: usize = 8;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Case {
    /// The loss.
    pub(crate) form: Form,
    /// Pairs: rows of the queries, and of the keys.
    pub(crate) rows: usize,
    /// Dimension.
    pub(crate) dim: usize,
    /// The temperature, above 0.
    pub(crate) temperature: f64,
    /// Threads; 0 for as many as the machine has.
    pub(crate) threads: usize,
}

/// What was measured, value and all gradients in f32, normalisation included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Record {
    /// `one-way`, `both` or `nt-xent`.
    pub(crate) loss: &'static str,
    /// Pairs.
    pub(crate) rows: usize,
    /// Dimension.
    pub(crate) dim: usize,
    /// The temperature.
    pub(crate) temperature: f64,
    /// Threads used.
    pub(crate) threads: usize,
    /// The loss, in nats.
    pub(crate) value: f64,
    /// Of a call.
    pub(crate) seconds: Seconds,
    /// Operations in products, in 10⁹ a second, as `kinfold::cost` counts them.
    pub(crate) gflops: f64,
    /// These as a share of the most that a product of 4096 × 4096 matrices reaches in the same rounds.
    pub(crate) gemm_share: f64,
    /// The most memory the process held up to here, inputs and gradients included; none where the
    /// system does not tell.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// The same by tensor operations that build the matrix; none where it would not fit.
    pub(crate) dense: Option<Dense>,
}

/// What the code that builds the matrix takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Dense {
    /// The loss, in nats.
    pub(crate) value: f64,
    /// Of a call, forward and backward.
    pub(crate) seconds: Seconds,
    /// The most memory the process held with it.
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// Of several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Seconds {
    /// The middle one.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
}

impl Seconds {
    pub(crate) fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let n = rounds.len();
        let median = (rounds[(n - 1) / 2] + rounds[n / 2]) / 2.0;
        Self { median, min: rounds[0], max: rounds[n - 1] }
    }
}

/// Measures a case.
///
/// # Errors
/// [`Error::Setting`] when the case has no rows, no dimension or no temperature, or when there can
/// be no such number of threads.
pub(crate) fn bench(case: Case) -> Result<Record, Error> {
    let temperature = checked(case)?;
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(case.threads)
        .build()
        .map_err(|e| Error::Setting(format!("{} threads: {e}", case.threads)))?;
    threads.install(|| measure(case, temperature))
}

/// The temperature of a case that can be measured.
pub(crate) fn checked(case: Case) -> Result<Temperature, Error> {
    for (name, value) in [("rows", case.rows), ("dim", case.dim)] {
        if value == 0 {
            return Err(Error::Setting(format!("{name} is 0, but it must be at least 1")));
        }
    }
    let needed = inputs(case.rows, case.dim);
    let what = format!("{} pairs of dimension {} and their gradients", case.rows, case.dim);
    memory::check(&what, needed, "--rows and --dim set their number")?;
    Temperature::new(case.temperature).map_err(|e| Error::Setting(e.to_string()))
}

/// The loss of a form, and its name.
pub(crate) fn loss_of(form: Form, temperature: Temperature) -> (ContrastiveLoss, &'static str) {
    match form {
        Form::OneWay => (ContrastiveLoss::info_nce(temperature), "one-way"),
        Form::BothWays => (ContrastiveLoss::clip(temperature), "both"),
        Form::NtXent => (ContrastiveLoss::nt_xent(temperature), "nt-xent"),
    }
}

fn measure(case: Case, temperature: Temperature) -> Result<Record, Error> {
    let Case { form, rows, dim, .. } = case;
    let (loss, name) = loss_of(form, temperature);
    let (queries, keys) = pairs(rows, dim);
    let (mut of_queries, mut of_keys) = (vec![0.0; rows * dim], vec![0.0; rows * dim]);
    let mut ours = || {
        let gradient = GradientMut::new(&mut of_queries, &mut of_keys);
        computed(&loss, [&queries, &keys], dim, gradient)
    };
    let value = ours()?;
    let peak_memory = peak_memory_bytes();

    let dense = fits(rows, form).then(|| DenseCase::new(&queries, &keys, dim, case));
    let dense_value = dense.as_ref().map(DenseCase::run).transpose()?;
    let mut gemm = Gemm::new(GEMM);
    gemm.run(0);
    let (mut our_seconds, mut gemm_seconds, mut dense_seconds) = (vec![], vec![], vec![]);
    let begin = Instant::now();
    while our_seconds.len() < ROUNDS.0
        || (our_seconds.len() < ROUNDS.1 && begin.elapsed().as_secs_f64() < SECONDS)
    {
        our_seconds.push(timed(&mut ours)?);
        // Twice: whoever was before has left its own numbers in the caches and its threads awake.
        for _ in 0..2 {
            gemm_seconds.push(timed(|| {
                gemm.run(0);
                Ok(0.0)
            })?);
        }
        if let Some(dense) = &dense {
            dense_seconds.push(timed(|| dense.run())?);
        }
    }
    let (seconds, of_gemm) = (Seconds::of(our_seconds), Seconds::of(gemm_seconds));
    let speed = kinfold::cost::flops::<f32>(&loss, rows, rows, dim) / seconds.median;
    Ok(Record {
        loss: name,
        rows,
        dim,
        temperature: case.temperature,
        threads: rayon::current_num_threads(),
        value,
        seconds,
        gflops: speed / 1e9,
        gemm_share: speed / (gemm.flops() / of_gemm.min),
        peak_memory_bytes: peak_memory,
        dense: dense_value.map(|value| Dense {
            value,
            seconds: Seconds::of(dense_seconds),
            peak_memory_bytes: peak_memory_bytes(),
        }),
    })
}

/// The loss of pairs; its gradients are written.
pub(crate) fn computed(
    loss: &ContrastiveLoss,
    [queries, keys]: [&[f32]; 2],
    dim: usize,
    gradient: GradientMut<'_, f32>,
) -> Result<f64, Error> {
    let batch = (Embeddings::new(queries, dim)?, Embeddings::new(keys, dim)?);
    Ok(loss.value_and_gradient_into(batch, gradient)?.0.mean)
}

pub(crate) fn timed(mut work: impl FnMut() -> Result<f64, Error>) -> Result<f64, Error> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Random directions, and keys near their queries.
pub(crate) fn pairs(rows: usize, dim: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let queries: Vec<f32> = (0..rows * dim).map(|_| uniform()).collect();
    let keys = queries.iter().map(|x| x + 0.5 * uniform()).collect();
    (queries, keys)
}

/// Bytes of both sides, their gradients, and the copies that the engine packs of them.
fn inputs(rows: usize, dim: usize) -> u64 {
    (rows as u64).saturating_mul(dim as u64).saturating_mul(4 * 6)
}

/// Whether the dense computation's matrices fit into half of the memory that is free.
fn fits(rows: usize, form: Form) -> bool {
    let side = if form == Form::NtXent { 2 * rows } else { rows };
    let needed = side.saturating_mul(side).saturating_mul(4 * DENSE_MATRICES) as u64;
    needed <= memory::available_bytes().map_or(1 << 30, |free| free / 2)
}

/// `normalize`, `matmul`, `log_softmax`, `backward`, in Burn's tensor operations.
struct DenseCase {
    queries: Tensor<2>,
    keys: Tensor<2>,
    form: Form,
    scale: f64,
}

impl DenseCase {
    fn new(queries: &[f32], keys: &[f32], dim: usize, case: Case) -> Self {
        let device = Device::flex().autodiff();
        let tensor = |x: &[f32]| {
            let data = TensorData::new(x.to_vec(), [case.rows, dim]);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let (queries, keys) = (tensor(queries), tensor(keys));
        Self { queries, keys, form: case.form, scale: case.temperature.recip() }
    }

    /// The loss; its gradients are computed and dropped.
    fn run(&self) -> Result<f64, Error> {
        let unit = |x: &Tensor<2>| x.clone() / x.clone().powi_scalar(2).sum_dim(1).sqrt();
        let (q, k) = (unit(&self.queries), unit(&self.keys));
        let n = q.dims()[0] as i64;
        let device = q.device();
        let diagonal = || Tensor::<1, Int>::arange(0..n, &device);
        let chosen = |s: Tensor<2>, positives: Tensor<1, Int>| {
            let rows = s.dims()[0];
            log_softmax(s, 1).gather(1, positives.reshape([rows, 1])).mean().neg()
        };
        let loss = match self.form {
            Form::OneWay => chosen(q.matmul(k.transpose()) * self.scale, diagonal()),
            Form::BothWays => {
                let s = q.matmul(k.transpose()) * self.scale;
                (chosen(s.clone(), diagonal()) + chosen(s.transpose(), diagonal())) / 2.0
            }
            Form::NtXent => {
                let z = Tensor::cat(vec![q, k], 0);
                let itself = Tensor::<2>::eye(2 * n as usize, &device) * 1e9;
                let s = z.clone().matmul(z.transpose()) * self.scale - itself;
                chosen(s, Tensor::cat(vec![diagonal() + n, diagonal()], 0))
            }
        };
        let value = kinfold_train::tensors::numbers(loss.clone())?[0];
        drop(loss.backward());
        Ok(f64::from(value))
    }
}
