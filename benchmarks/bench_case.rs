//! Our side of the benchmarks: answers requests, one a line, until the input ends.
//!
//! ```text
//! open LOSS N D TAU THREADS BUDGET FILE                   reads 2·N·D f32 from FILE, queries first;
//!                                                         LOSS is one-way, both, nt-xent or a preset
//! value                                                   {"value": …, "log_scale": …, "flops": …}
//! time COUNT                                              {"seconds": […]}: value and all gradients
//! busy SECONDS                                            keeps all threads at matrix products
//! gradients FILE                                          writes them there, 2·N·D f32
//! ```
#![allow(clippy::print_stdout, reason = "its answers are its output")]

use kinfold::runtime::{Execution, Gemm};
use kinfold::{
    Batch, ContrastiveLoss, Embeddings, GradientMut, Objective, ParameterGradient, Preset,
    Temperature, Value,
};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::time::Instant;

struct Case {
    loss: ContrastiveLoss,
    threads: usize,
    dim: usize,
    /// For the losses over labels: eight pairs have each.
    labels: Vec<u64>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    of_queries: Vec<f32>,
    of_keys: Vec<f32>,
}

impl Case {
    fn open(words: &[&str]) -> Result<Self, Box<dyn Error>> {
        let &[form, n, dim, tau, threads, budget, file] = words else {
            return Err("open LOSS N D TAU THREADS BUDGET FILE".into());
        };
        let tau = Temperature::new(tau.parse()?)?;
        let loss = match form {
            "one-way" => ContrastiveLoss::info_nce(tau),
            "both" => ContrastiveLoss::clip(tau),
            "nt-xent" => ContrastiveLoss::nt_xent(tau),
            preset => preset.parse::<Preset>()?.at(tau),
        };
        let threads = threads.parse()?;
        let loss = loss.with_execution(
            Execution::new().with_threads(threads).with_memory_budget(budget.parse()?),
        );
        let (n, dim) = (n.parse::<usize>()?, dim.parse::<usize>()?);
        let mut file = BufReader::new(File::open(file)?);
        let mut numbers = || -> std::io::Result<Vec<f32>> {
            let mut numbers = vec![0.0; n * dim];
            for x in &mut numbers {
                let mut bytes = [0; 4];
                file.read_exact(&mut bytes)?;
                *x = f32::from_le_bytes(bytes);
            }
            Ok(numbers)
        };
        Ok(Self {
            loss,
            threads,
            dim,
            labels: (0..n as u64).map(|i| i / 8).collect(),
            queries: numbers()?,
            keys: numbers()?,
            of_queries: vec![0.0; n * dim],
            of_keys: vec![0.0; n * dim],
        })
    }

    fn run(&mut self) -> Result<(Value, ParameterGradient), kinfold::Error> {
        let queries = Embeddings::new(&self.queries, self.dim)?;
        let keys = Embeddings::new(&self.keys, self.dim)?;
        let mut batch = Batch::new(queries, keys);
        if matches!(self.loss.objective(), Objective::SupConOutside | Objective::SupConInside) {
            batch = batch.with_labels(&self.labels);
        }
        let gradient = GradientMut::new(&mut self.of_queries, &mut self.of_keys);
        self.loss.value_and_gradient_into(batch, gradient)
    }

    fn answer(&mut self, words: &[&str]) -> Result<String, Box<dyn Error>> {
        match words {
            ["value"] => {
                let (value, parameters) = self.run()?;
                Ok(format!(
                    "{{\"value\": {:e}, \"log_scale\": {:e}, \"kept\": {}, \"scratch_bytes\": {}}}",
                    value.mean,
                    parameters.log_scale,
                    value.statistics.kept_exponentials,
                    value.statistics.scratch_bytes,
                ))
            }
            ["time", count] => {
                let mut seconds = Vec::new();
                for _ in 0..count.parse()? {
                    let start = Instant::now();
                    self.run()?;
                    seconds.push(start.elapsed().as_secs_f64());
                }
                Ok(format!("{{\"seconds\": {seconds:?}}}"))
            }
            ["busy", seconds] => {
                let (seconds, start) = (seconds.parse::<f64>()?, Instant::now());
                let mut gemm = Gemm::new(768);
                while start.elapsed().as_secs_f64() < seconds {
                    gemm.run(self.threads);
                }
                Ok("{}".to_owned())
            }
            ["gradients", file] => {
                self.run()?;
                let mut file = BufWriter::new(File::create(file)?);
                for x in self.of_queries.iter().chain(&self.of_keys) {
                    file.write_all(&x.to_le_bytes())?;
                }
                file.flush()?;
                Ok("{}".to_owned())
            }
            _ => Err("open …, value, time COUNT or gradients FILE".into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut case: Option<Case> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match (words.as_slice(), &mut case) {
            (["open", rest @ ..], _) => {
                case = Some(Case::open(rest)?);
                "{}".to_owned()
            }
            (words, Some(case)) => case.answer(words)?,
            (_, None) => return Err("open a case first".into()),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
