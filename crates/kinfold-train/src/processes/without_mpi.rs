//! Without MPI there are no other processes: nothing of this can be had.

use kinfold_nn::ops::SumOverProcesses;

#[derive(Debug)]
pub(super) enum World {}

impl World {
    pub(super) fn rank(&self) -> usize {
        match *self {}
    }
    pub(super) fn count(&self) -> usize {
        match *self {}
    }
    pub(super) fn on_this_machine(&self) -> usize {
        match *self {}
    }
    pub(super) fn sent(&self) -> u64 {
        match *self {}
    }
    pub(super) fn abort(&self, _code: i32) -> ! {
        match *self {}
    }
    pub(super) fn wait_for_all(&self) {
        match *self {}
    }
    pub(super) fn sum_f32(&self, _numbers: &mut [f32]) {
        match *self {}
    }
    pub(super) fn gather(&self, _numbers: &[f32], _counts: &[usize]) -> Vec<f32> {
        match *self {}
    }
    pub(super) fn sum_and_scatter(&self, _blocks: &[f32]) -> Vec<f32> {
        match *self {}
    }
    pub(super) fn texts(&self, _text: &str) -> Vec<String> {
        match *self {}
    }
    pub(super) fn of_first(&self, _bytes: Vec<u8>) -> Vec<u8> {
        match *self {}
    }
}

impl SumOverProcesses for World {
    fn sum(&self, _numbers: &mut [f64]) {
        match *self {}
    }
}
