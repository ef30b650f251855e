//! What a strip of rows chooses among.
//!
//! Comes in: a problem, and which rows. Goes out: their logits against all candidates, a block of
//! columns for each matrix that these come from, and which of them are positives, and which neither
//! positives nor negatives.

use super::problem::{KEYS, NEGATIVES, Problem, QUERIES};
use super::row::Logits;
use burn::tensor::{Bool, Int, Tensor};
use kinfold::{Form, Objective};

/// A matrix whose rows choose, and the one that they choose from.
pub(super) struct Pass {
    pub(super) chooser: usize,
    target: usize,
    /// How much of the loss it is.
    pub(super) share: f64,
}

/// Columns of a strip: rows of one matrix, from `left_start` on, against rows of another.
pub(super) struct Block {
    pub(super) left: usize,
    pub(super) left_start: usize,
    pub(super) right: Right,
    pub(super) columns: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Right {
    /// Every row against all rows of a matrix.
    All(usize),
    /// Each row against rows of its own: the strip's begin at `first`, `each` a row.
    Own { matrix: usize, first: usize, each: usize },
}

impl Problem {
    pub(super) fn passes(&self) -> Vec<Pass> {
        let one_way = vec![Pass { chooser: QUERIES, target: KEYS, share: 1.0 }];
        match self.loss.form() {
            // Where every pair is on its own, both ways are one.
            _ if matches!(self.loss.objective(), Objective::Sigmoid { .. }) => one_way,
            Form::OneWay => one_way,
            Form::BothWays => vec![
                Pass { chooser: QUERIES, target: KEYS, share: 0.5 },
                Pass { chooser: KEYS, target: QUERIES, share: 0.5 },
            ],
            Form::NtXent => vec![Pass { chooser: QUERIES, target: QUERIES, share: 1.0 }],
        }
    }

    /// The logits of a strip, and what they are of.
    pub(super) fn strip(&self, pass: &Pass, start: usize, rows: usize) -> (Logits, Vec<Block>) {
        let blocks = self.blocks(pass, start);
        let closest = self.guide_on_positives(start, rows);
        let (mut logits, mut positives, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for (i, block) in blocks.iter().enumerate() {
            let mut similarity = self.similarity(block, rows);
            // The first block is the one that positives are in.
            let positive = match i {
                0 => self.positive(block, start, rows),
                _ => self.none(rows, block.columns),
            };
            if self.loss.margin() != 0.0 {
                let less = similarity.clone() - self.loss.margin();
                similarity = similarity.mask_where(positive.clone(), less);
            }
            let excluded = match &closest {
                Some(closest) => self.closer(closest, block, rows),
                None => self.itself(block, rows),
            };
            let excluded = [excluded, self.known(pass, block, start, rows)].into_iter().flatten();
            left_out.push(excluded.fold(positive.clone(), Tensor::bool_or));
            logits.push(similarity);
            positives.push(positive);
        }
        let logits = Logits {
            s: Tensor::cat(logits, 1) * self.scale.clone(),
            positive: Tensor::cat(positives, 1),
            not_negative: Tensor::cat(left_out, 1),
            positive_weight: self.positive_weights.clone().map(|w| w.narrow(0, start, rows)),
        };
        (logits, blocks)
    }

    /// The blocks that the rows from `start` on choose among.
    fn blocks(&self, pass: &Pass, start: usize) -> Vec<Block> {
        let all = |left, left_start, matrix: usize| Block {
            left,
            left_start,
            right: Right::All(matrix),
            columns: self.matrix(matrix).dims()[0],
        };
        let own = |matrix, first, each| Block {
            left: pass.chooser,
            left_start: start,
            right: Right::Own { matrix, first, each },
            columns: each,
        };
        let mut blocks = vec![match self.loss.in_batch_negatives() {
            true => all(pass.chooser, start, pass.target),
            false => own(KEYS, start + self.loss.offset(), 1),
        }];
        match (&self.compared[NEGATIVES], self.per_query) {
            (None, _) => {}
            (Some(_), None) => blocks.push(all(QUERIES, start, NEGATIVES)),
            (Some(_), Some(each)) => blocks.push(own(NEGATIVES, start * each, each)),
        }
        if self.loss.within_views() {
            blocks.push(all(QUERIES, start, QUERIES));
            blocks.push(all(KEYS, start, KEYS));
        }
        // Negatives of no rows have no columns.
        blocks.retain(|block| block.columns > 0);
        blocks
    }

    fn similarity(&self, block: &Block, rows: usize) -> Tensor<2> {
        let left = self.rows_of(block.left, block.left_start, rows);
        match block.right {
            Right::All(matrix) => left.matmul(self.matrix(matrix).transpose()),
            Right::Own { matrix, first, each } => {
                let dim = left.dims()[1];
                let right = self.rows_of(matrix, first, rows * each).reshape([rows, each, dim]);
                right.matmul(left.reshape([rows, dim, 1])).reshape([rows, each])
            }
        }
    }

    /// Which of the first block's columns are positives of the rows from `start` on.
    fn positive(&self, block: &Block, start: usize, rows: usize) -> Tensor<2, Bool> {
        if let Right::Own { .. } = block.right {
            return self.none(rows, block.columns).bool_not();
        }
        if let Some(labels) = &self.labels {
            let same = same(labels.clone().narrow(0, start, rows), labels.clone());
            let itself = same_numbers(start, rows, block.columns, labels);
            return same.bool_and(itself.bool_not());
        }
        let (n, like) = (self.pairs, self.none_like());
        match self.loss.form() {
            Form::OneWay => same_numbers(start + self.loss.offset(), rows, block.columns, &like),
            Form::BothWays => same_numbers(start, rows, block.columns, &like),
            // Row i's partner is row i + n, and the other way round.
            Form::NtXent => {
                let row = numbers(start, rows, &like) + n as i64;
                let partner = row.remainder_scalar(2 * n as i64);
                same(partner, numbers(0, block.columns, &like))
            }
        }
    }

    /// Which columns of a block are the row itself.
    fn itself(&self, block: &Block, rows: usize) -> Option<Tensor<2, Bool>> {
        match block.right {
            Right::All(matrix) if matrix == block.left => {
                let like = self.none_like();
                Some(same_numbers(block.left_start, rows, block.columns, &like))
            }
            _ => None,
        }
    }

    /// Which columns of a block are known to be of the same as the row that chooses.
    fn known(
        &self,
        pass: &Pass,
        block: &Block,
        start: usize,
        rows: usize,
    ) -> Option<Tensor<2, Bool>> {
        let Right::All(matrix) = block.right else { return None };
        let own = self.ids[pass.chooser].clone()?.narrow(0, start, rows);
        Some(same(own, self.ids[matrix].clone()?))
    }

    /// What the guide finds of the positives of the rows from `start` on, `[rows, 1]`.
    fn guide_on_positives(&self, start: usize, rows: usize) -> Option<Tensor<2>> {
        let [Some(queries), Some(keys), _] = self.guide.as_ref()? else { return None };
        // The product itself, so that a key that equals its query is as close as the query is.
        let all = queries.clone().narrow(0, start, rows).matmul(keys.clone().transpose());
        let positive = same_numbers(start, rows, keys.dims()[0], &self.none_like());
        Some(all.mask_fill(positive.bool_not(), 0.0).sum_dim(1))
    }

    /// Which columns of a block the guide finds closer than the positive.
    fn closer(&self, closest: &Tensor<2>, block: &Block, rows: usize) -> Option<Tensor<2, Bool>> {
        let Right::All(matrix) = block.right else { return None };
        let guide = self.guide.as_ref()?;
        let left = guide[block.left].clone()?.narrow(0, block.left_start, rows);
        let cosine = left.matmul(guide[matrix].clone()?.transpose());
        Some(cosine.greater(closest.clone().expand([rows, block.columns])))
    }

    fn none(&self, rows: usize, columns: usize) -> Tensor<2, Bool> {
        self.none_like().reshape([1, 1]).expand([rows, columns]).equal_elem(1)
    }

    /// A zero, on the device that everything here is on.
    fn none_like(&self) -> Tensor<1, Int> {
        Tensor::zeros([1], &self.device())
    }
}

/// `start..start + count`, where `like` is.
fn numbers(start: usize, count: usize, like: &Tensor<1, Int>) -> Tensor<1, Int> {
    Tensor::arange(start as i64..(start + count) as i64, &like.device())
}

/// Where rows `start..start + rows` meet the columns of the same number.
fn same_numbers(
    start: usize,
    rows: usize,
    columns: usize,
    like: &Tensor<1, Int>,
) -> Tensor<2, Bool> {
    same(numbers(start, rows, like), numbers(0, columns, like))
}

/// Where rows and columns have the same integer.
fn same(row: Tensor<1, Int>, column: Tensor<1, Int>) -> Tensor<2, Bool> {
    let ([rows], [columns]) = (row.dims(), column.dims());
    let row = row.reshape([rows, 1]).expand([rows, columns]);
    row.equal(column.reshape([1, columns]).expand([rows, columns]))
}
