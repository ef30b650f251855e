//! Tensors over processes: rows gathered, their gradients summed and scattered, the gradients of weights
//! summed.

use super::Processes;
use crate::Error;
use crate::tensors::numbers;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use kinfold_nn::ops::SumOverProcesses;
use std::ops::Range;

impl Processes {
    /// The rows of all processes, `[Σ counts, d]`, given this one's, `[counts[rank], d]`.
    pub(crate) fn gathered(&self, rows: Tensor<2>, counts: &[usize]) -> Result<Tensor<2>, Error> {
        let Some(world) = &self.world else { return Ok(rows) };
        let ([_, dim], device) = (rows.dims(), rows.device());
        let numbers_of: Vec<usize> = counts.iter().map(|count| count * dim).collect();
        let all = world.gather(&numbers(rows)?[..numbers_of[self.rank()]], &numbers_of);
        let shape = [counts.iter().sum(), dim];
        Ok(Tensor::from_data(TensorData::new(all, shape), &device))
    }

    /// The sum over processes of what each has for the rows of all, `[Σ counts, d]`: this process's rows of it.
    pub(crate) fn summed_rows(&self, all: Tensor<2>, counts: &[usize]) -> Result<Tensor<2>, Error> {
        let Some(world) = &self.world else { return Ok(all) };
        let ([_, dim], device) = (all.dims(), all.device());
        // Blocks of one length, as MPI wants them: shares differ by one row.
        let most = counts.iter().max().copied().unwrap_or_default() * dim;
        let all = numbers(all)?;
        let mut blocks = vec![0.0; most * counts.len()];
        let mut rest = &all[..];
        for (block, count) in blocks.chunks_exact_mut(most.max(1)).zip(counts) {
            let (part, after) = rest.split_at(count * dim);
            block[..part.len()].copy_from_slice(part);
            rest = after;
        }
        let rows = counts[self.rank()];
        let mut own = world.sum_and_scatter(&blocks);
        own.truncate(rows * dim);
        Ok(Tensor::from_data(TensorData::new(own, [rows, dim]), &device))
    }

    /// This process's rows, `[counts[rank], d]`, at their place among those of all, `[Σ counts, d]`, which are 0.
    pub(crate) fn placed(&self, rows: Tensor<2>, counts: &[usize]) -> Tensor<2> {
        let ([_, dim], device) = (rows.dims(), rows.device());
        let (all, own) = (Tensor::zeros([counts.iter().sum(), dim], &device), self.rows(counts));
        match own.is_empty() {
            true => all,
            false => all.slice_assign([own, 0..dim], rows.detach()),
        }
    }

    /// This process's rows, `[counts[rank], d]`, of those of all, `[Σ counts, d]`.
    pub(crate) fn own_rows(&self, all: Tensor<2>, counts: &[usize]) -> Tensor<2> {
        let (own, [_, dim]) = (self.rows(counts), all.dims());
        match own.is_empty() {
            true => Tensor::zeros([0, dim], &all.device()),
            false => all.narrow(0, own.start, own.len()),
        }
    }

    /// Where this process's rows are among those of all.
    fn rows(&self, counts: &[usize]) -> Range<usize> {
        let start = counts[..self.rank()].iter().sum();
        start..start + counts[self.rank()]
    }

    /// The gradients of a module's weights, summed over processes. Those of a process that does not `count`
    /// count as 0, but they must be there.
    pub(crate) fn summed_gradients<M: Module>(
        &self,
        module: &M,
        gradients: GradientsParams,
        counts: bool,
    ) -> GradientsParams {
        let Some(world) = &self.world else { return gradients };
        let mut all = Collect { gradients: &gradients, numbers: Vec::new() };
        module.visit(&mut all);
        let mut numbers = all.numbers;
        if !counts {
            numbers.fill(0.0);
        }
        world.sum_f32(&mut numbers);
        let summed = GradientsParams::new();
        let mut put = Put { gradients: &gradients, numbers: &numbers, summed };
        module.visit(&mut put);
        put.summed
    }

    /// The sum of a number over processes.
    pub(crate) fn summed(&self, number: f64) -> f64 {
        let mut numbers = [number];
        if let Some(world) = &self.world {
            world.sum(&mut numbers);
        }
        numbers[0]
    }
}

/// All gradients in the order of the weights, one after another.
struct Collect<'a> {
    gradients: &'a GradientsParams,
    numbers: Vec<f32>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.numbers.extend(gradient.into_data().iter::<f32>());
        }
    }
}

/// Puts numbers in the place of gradients, in the same order.
struct Put<'a> {
    gradients: &'a GradientsParams,
    numbers: &'a [f32],
    summed: GradientsParams,
}

impl ModuleVisitor for Put<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let (shape, device) = (gradient.shape(), gradient.device());
            let (own, rest) = self.numbers.split_at(shape.num_elements());
            self.numbers = rest;
            let data = TensorData::new(own.to_vec(), shape);
            self.summed.register::<D>(param.id, Tensor::from_data(data, &device));
        }
    }
}
