//! The mean of rows of a table: of the rows of each text's tokens, what a text is to a static embedding.
//!
//! Forward and backward are one pass each over the rows that there are. Backward each row of the table is
//! written by one thread, in the order of the bags, so that results have the same bits for every number of
//! threads.

use super::memory::buffer::Buffer;
use super::memory::loops::add;
use super::memory::tensor::{contiguous, is_ours, numbers, width};
use super::operation::{Operation, apply};
use burn::backend::flex::FlexTensor;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of a table that one task writes.
const ROWS: usize = 64;

/// Bags of rows of a table, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bags {
    rows: Arc<[u32]>,
    ends: Arc<[usize]>,
}

impl Bags {
    /// Bags of these rows, each of which ends at one of `ends` (and begins where the one before does).
    ///
    /// # Panics
    /// When ends descend, or the last is not the number of rows.
    pub fn new(rows: Vec<u32>, ends: Vec<usize>) -> Self {
        assert!(ends.is_sorted(), "ends of bags must not descend");
        assert_eq!(
            ends.last().copied().unwrap_or(0),
            rows.len(),
            "the last bag ends with the rows"
        );
        Self { rows: rows.into(), ends: ends.into() }
    }

    /// Number of bags.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No bag.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// `count` bags from `first` on.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        let begin = self.begin(first);
        let ends: Vec<usize> =
            self.ends[first..first + count].iter().map(|end| end - begin).collect();
        let rows = self.rows[begin..begin + ends.last().copied().unwrap_or(0)].to_vec();
        Self::new(rows, ends)
    }

    fn begin(&self, bag: usize) -> usize {
        bag.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn of(&self, bag: usize) -> &[u32] {
        &self.rows[self.begin(bag)..self.ends[bag]]
    }

    /// What each row of a bag weighs in its mean.
    fn weight(&self, bag: usize) -> f32 {
        1.0 / (self.ends[bag] - self.begin(bag)).max(1) as f32
    }
}

/// The mean of each bag's rows of `table` `[rows, d]`: `[bags, d]`; zeros of an empty bag.
///
/// # Panics
/// When the table has no row of some number.
pub fn embedding_bag(table: Tensor<2>, bags: &Bags) -> Tensor<2> {
    let [rows, _] = table.dims();
    let most = bags.rows.iter().copied().max();
    assert!(
        most.is_none_or(|most| (most as usize) < rows),
        "a bag has row {}, but the table has {rows}",
        most.unwrap_or(0)
    );
    if is_ours(&table) && !bags.is_empty() {
        return apply(Mean { bags: bags.clone() }, [table.into_dispatch()]);
    }
    in_operations(table, bags)
}

/// The same in tensor operations.
fn in_operations(table: Tensor<2>, bags: &Bags) -> Tensor<2> {
    let ([_, d], device) = (table.dims(), table.device());
    let out = Tensor::<2>::zeros([bags.len(), d], &device);
    if bags.rows.is_empty() {
        return out;
    }
    let ints = |numbers: Vec<i64>| -> Tensor<1, Int> {
        let n = numbers.len();
        Tensor::from_data(TensorData::new(numbers, [n]), &device)
    };
    let rows = ints(bags.rows.iter().map(|&row| i64::from(row)).collect());
    let of_each = (0..bags.len()).flat_map(|bag| bags.of(bag).iter().map(move |_| bag as i64));
    let weights: Vec<f32> = (0..bags.len()).map(|bag| bags.weight(bag)).collect();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [bags.len(), 1]), &device);
    let sums =
        out.select_assign(0, ints(of_each.collect()), table.select(0, rows), IndexingUpdateOp::Add);
    sums * weights
}

#[derive(Debug, Clone)]
struct Mean {
    bags: Bags,
}

impl Operation<1> for Mean {
    /// The bags, and the table's rows.
    type Saved = (Bags, usize);

    fn forward(&self, [table]: [FlexTensor; 1]) -> (FlexTensor, Self::Saved) {
        let table = table.to_contiguous();
        let (d, data, bags) = (width(&table), numbers(&table), &self.bags);
        let mut out = Buffer::zeros(bags.len() * d);
        out.par_chunks_mut(d).enumerate().with_min_len(16).for_each(|(bag, out)| {
            for &row in bags.of(bag) {
                add(out, &data[row as usize * d..][..d]);
            }
            let weight = bags.weight(bag);
            out.iter_mut().for_each(|sum| *sum *= weight);
        });
        (contiguous(out, [bags.len(), d]), (bags.clone(), data.len() / d))
    }

    fn backward(
        (bags, rows): Self::Saved,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let gradient = gradient.to_contiguous();
        let (d, gradient) = (width(&gradient), numbers(&gradient));
        // What each row of a bag receives.
        let mut shares = Buffer::any(bags.len() * d);
        shares.par_chunks_mut(d).zip(gradient.par_chunks(d)).enumerate().with_min_len(16).for_each(
            |(bag, (share, gradient))| {
                let weight = bags.weight(bag);
                share.iter_mut().zip(gradient).for_each(|(share, x)| *share = x * weight);
            },
        );
        let (starts, holders) = holders(&bags, rows);
        let mut out = Buffer::zeros(rows * d);
        out.par_chunks_mut(ROWS * d).enumerate().for_each(|(chunk, out)| {
            for (row, out) in out.chunks_mut(d).enumerate() {
                let row = chunk * ROWS + row;
                for &bag in &holders[starts[row] as usize..starts[row + 1] as usize] {
                    add(out, &shares[bag as usize * d..][..d]);
                }
            }
        });
        [Some(contiguous(out, [rows, d]))]
    }
}

/// For each row of the table the bags that hold it, in order, as often as they do: where each row's
/// begin, and all of them.
fn holders(bags: &Bags, rows: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; rows + 1];
    for &row in &*bags.rows {
        starts[row as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let (mut next, mut holders) = (starts.clone(), vec![0; bags.rows.len()]);
    for bag in 0..bags.len() {
        for &row in bags.of(bag) {
            let at = &mut next[row as usize];
            holders[*at as usize] = bag as u32;
            *at += 1;
        }
    }
    (starts, holders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    fn close(a: Tensor<2>, b: Tensor<2>) {
        let most: f32 = (a - b).abs().max().into_data().iter().next().expect("a number");
        assert!(most < 1e-5, "{most}");
    }

    #[test]
    fn means_and_their_gradients_are_those_of_tensor_operations() {
        let device = Device::flex().autodiff();
        for (rows, d, bags) in [
            (1, 1, vec![vec![0]]),
            (5, 3, vec![vec![0, 4, 4, 1], vec![], vec![2], vec![4, 4]]),
            (200, 17, (0..50).map(|i| (0..i % 7).map(|j| (i * j * 31) % 200).collect()).collect()),
        ] {
            let ends = bags.iter().scan(0, |end, bag: &Vec<u32>| {
                *end += bag.len();
                Some(*end)
            });
            let bags = Bags::new(bags.concat(), ends.collect());
            let table = Tensor::<2>::random([rows, d], Distribution::Default, &device);
            let table = table.detach().require_grad();
            let weights = Tensor::<2>::random([bags.len(), d], Distribution::Default, &device);
            let both: [fn(Tensor<2>, &Bags) -> Tensor<2>; 2] = [embedding_bag, in_operations];
            let [(ours, of_ours), (theirs, of_theirs)] = both.map(|mean| {
                let mean = mean(table.clone(), &bags);
                let gradients = (mean.clone() * weights.clone()).sum().backward();
                (mean.inner(), table.grad(&gradients).expect("a gradient"))
            });
            close(ours, theirs);
            close(of_ours, of_theirs);
        }
    }

    #[test]
    fn every_number_of_threads_gives_the_same_bits() {
        let bags: Vec<u32> = (0..4000).map(|i| (i * i * 7919) % 300).collect();
        let bags = Bags::new(bags, (1..=400).map(|i| 10 * i).collect());
        let device = Device::flex().autodiff();
        let table = Tensor::<2>::random([300, 40], Distribution::Default, &device);
        let table = table.detach().require_grad();
        let of = |threads: usize| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let mean = embedding_bag(table.clone(), &bags);
                let gradients = (mean.clone() * mean).sum().backward();
                table.grad(&gradients).expect("a gradient").into_data()
            })
        };
        assert_eq!(of(1), of(2));
        assert_eq!(of(1), of(5));
    }

    #[test]
    fn a_part_of_bags_is_those_bags() {
        let bags = Bags::new(vec![1, 2, 3, 4], vec![1, 1, 3, 4]);
        assert_eq!(bags.narrow(1, 2), Bags::new(vec![2, 3], vec![0, 2]));
        assert_eq!(bags.narrow(0, 4), bags);
        assert_eq!(bags.narrow(4, 0).len(), 0);
    }
}
