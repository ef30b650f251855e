//! What a strip of rows is compared with.
//!
//! Input: a [`Problem`] and a range of rows. Output: their similarities with all candidates, block by
//! block (a block has the columns of one matrix), and masks that say which candidates are positives
//! and which are negatives.

use super::problem::{KEYS, NEGATIVES, Problem, QUERIES};
use super::terms::Candidates;
use burn::tensor::{Bool, Int, Tensor};
use kinfold::{Form, GUIDE_MARGIN, Objective};

/// One direction of a loss: each row of one matrix against the candidates of another.
pub(super) struct Pass {
    pub(super) anchor: usize,
    target: usize,
    /// The part of the loss that it makes up.
    pub(super) share: f64,
}

/// Consecutive rows of a pass.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    pub(super) start: usize,
    pub(super) rows: usize,
}

/// Columns of a strip: rows of one matrix, from `left_start` on, against rows of another.
struct Block {
    left: usize,
    left_start: usize,
    right: Right,
    columns: usize,
}

#[derive(Clone, Copy)]
enum Right {
    /// Every row against all rows of a matrix.
    All(usize),
    /// Each row against `each` rows of its own; those of the strip begin at `first`.
    PerQuery { matrix: usize, first: usize, each: usize },
}

impl Problem {
    pub(super) fn passes(&self) -> Vec<Pass> {
        let one_way = vec![Pass { anchor: QUERIES, target: KEYS, share: 1.0 }];
        match self.loss.form() {
            // The sigmoid loss is symmetric, so one direction is enough.
            _ if matches!(self.loss.objective(), Objective::Sigmoid { .. }) => one_way,
            Form::OneWay => one_way,
            Form::BothWays => vec![
                Pass { anchor: QUERIES, target: KEYS, share: 0.5 },
                Pass { anchor: KEYS, target: QUERIES, share: 0.5 },
            ],
            Form::NtXent => vec![Pass { anchor: QUERIES, target: QUERIES, share: 1.0 }],
        }
    }

    /// The strips of a pass, of `most` rows each but perhaps the last.
    pub(super) fn strips(&self, pass: &Pass, most: usize) -> impl Iterator<Item = Strip> + use<> {
        let (all, most) = (self.matrix(pass.anchor).dims()[0], most.max(1));
        (0..all).step_by(most).map(move |start| Strip { start, rows: most.min(all - start) })
    }

    pub(super) fn candidates(&self, pass: &Pass, strip: Strip) -> Candidates {
        let of_positives = self.guide_on_positives(strip);
        let (mut similarities, mut positives, mut left_out) = (vec![], vec![], vec![]);
        for (i, block) in self.blocks(pass, strip).iter().enumerate() {
            // Positives are in the first block.
            let positive = match i {
                0 => self.positive(block, strip),
                _ => self.none(strip.rows, block.columns),
            };
            let mut similarity = self.similarity(block, strip.rows);
            if self.loss.margin() != 0.0 {
                let less = similarity.clone() - self.loss.margin();
                similarity = similarity.mask_where(positive.clone(), less);
            }
            let excluded = [
                self.itself(block, strip.rows),
                self.same_id(pass, block, strip),
                of_positives.as_ref().and_then(|x| self.closer(x, block, strip.rows)),
            ];
            left_out.push(excluded.into_iter().flatten().fold(positive.clone(), Tensor::bool_or));
            similarities.push(similarity);
            positives.push(positive);
        }
        Candidates {
            similarity: Tensor::cat(similarities, 1),
            positive: Tensor::cat(positives, 1),
            not_negative: Tensor::cat(left_out, 1),
        }
    }

    /// The blocks of a strip's candidates.
    fn blocks(&self, pass: &Pass, strip: Strip) -> Vec<Block> {
        let start = strip.start;
        let all = |left, matrix: usize| Block {
            left,
            left_start: start,
            right: Right::All(matrix),
            columns: self.matrix(matrix).dims()[0],
        };
        let per_query = |matrix, first, each| Block {
            left: pass.anchor,
            left_start: start,
            right: Right::PerQuery { matrix, first, each },
            columns: each,
        };
        let mut blocks = vec![match self.loss.in_batch_negatives() {
            true => all(pass.anchor, pass.target),
            false => per_query(KEYS, start + self.loss.offset(), 1),
        }];
        match (&self.variables[NEGATIVES], self.per_query) {
            (None, _) => {}
            (Some(_), None) => blocks.push(all(QUERIES, NEGATIVES)),
            (Some(_), Some(each)) => blocks.push(per_query(NEGATIVES, start * each, each)),
        }
        if self.loss.within_views() {
            blocks.push(all(QUERIES, QUERIES));
            blocks.push(all(KEYS, KEYS));
        }
        // Negatives of no rows have no columns.
        blocks.retain(|block| block.columns > 0);
        blocks
    }

    fn similarity(&self, block: &Block, rows: usize) -> Tensor<2> {
        let left = self.matrix(block.left).narrow(0, block.left_start, rows);
        match block.right {
            Right::All(matrix) => left.matmul(self.matrix(matrix).transpose()),
            Right::PerQuery { matrix, first, each } => {
                let dim = left.dims()[1];
                let right = self.matrix(matrix).narrow(0, first, rows * each);
                let right = right.reshape([rows, each, dim]);
                right.matmul(left.reshape([rows, dim, 1])).reshape([rows, each])
            }
        }
    }

    /// Which of the first block's columns are positives.
    fn positive(&self, block: &Block, strip: Strip) -> Tensor<2, Bool> {
        let Strip { start, rows } = strip;
        if let Right::PerQuery { .. } = block.right {
            return self.none(rows, block.columns).bool_not();
        }
        if let Some(labels) = &self.labels {
            let same = equal(labels.clone().narrow(0, start, rows), labels.clone());
            return same.bool_and(self.same_index(start, rows, block.columns).bool_not());
        }
        match self.loss.form() {
            Form::OneWay => self.same_index(start + self.loss.offset(), rows, block.columns),
            Form::BothWays => self.same_index(start, rows, block.columns),
            // The partner of row i is row i + n, and the other way round.
            Form::NtXent => {
                let n = self.pairs as i64;
                let partner = (self.indices(start, rows) + n).remainder_scalar(2 * n);
                equal(partner, self.indices(0, block.columns))
            }
        }
    }

    /// Which columns of a block are the row itself.
    fn itself(&self, block: &Block, rows: usize) -> Option<Tensor<2, Bool>> {
        match block.right {
            Right::All(matrix) if matrix == block.left => {
                Some(self.same_index(block.left_start, rows, block.columns))
            }
            _ => None,
        }
    }

    /// Which columns of a block have the id of the row.
    fn same_id(&self, pass: &Pass, block: &Block, strip: Strip) -> Option<Tensor<2, Bool>> {
        let Right::All(matrix) = block.right else { return None };
        let ids = self.ids[pass.anchor].clone()?.narrow(0, strip.start, strip.rows);
        Some(equal(ids, self.ids[matrix].clone()?))
    }

    /// The guide's similarity of each row with its positive, `[rows, 1]`.
    fn guide_on_positives(&self, strip: Strip) -> Option<Tensor<2>> {
        let Strip { start, rows } = strip;
        let [Some(queries), Some(keys), _] = self.guide.as_ref()? else { return None };
        let of_strip = |x: &Tensor<2>| x.clone().narrow(0, start, rows);
        Some((of_strip(queries) * of_strip(keys)).sum_dim(1))
    }

    /// Which columns of a block the guide finds closer than the positive.
    fn closer(
        &self,
        of_positives: &Tensor<2>,
        block: &Block,
        rows: usize,
    ) -> Option<Tensor<2, Bool>> {
        let Right::All(matrix) = block.right else { return None };
        let guide = self.guide.as_ref()?;
        let left = guide[block.left].clone()?.narrow(0, block.left_start, rows);
        let cosine = left.matmul(guide[matrix].clone()?.transpose());
        let threshold = of_positives.clone().add_scalar(GUIDE_MARGIN);
        Some(cosine.greater(threshold.expand([rows, block.columns])))
    }

    fn none(&self, rows: usize, columns: usize) -> Tensor<2, Bool> {
        let zero = Tensor::<2, Int>::zeros([1, 1], &self.device());
        zero.equal_elem(1).expand([rows, columns])
    }

    /// `start..start + count`.
    fn indices(&self, start: usize, count: usize) -> Tensor<1, Int> {
        Tensor::arange(start as i64..(start + count) as i64, &self.device())
    }

    /// Where rows `start..start + rows` meet the columns of the same index.
    fn same_index(&self, start: usize, rows: usize, columns: usize) -> Tensor<2, Bool> {
        equal(self.indices(start, rows), self.indices(0, columns))
    }
}

/// Where a row and a column have the same integer.
fn equal(row: Tensor<1, Int>, column: Tensor<1, Int>) -> Tensor<2, Bool> {
    let ([rows], [columns]) = (row.dims(), column.dims());
    let row = row.reshape([rows, 1]).expand([rows, columns]);
    row.equal(column.reshape([1, columns]).expand([rows, columns]))
}
