//! Some things of a run as its trained encoder sees them.
//!
//! Input: a run's model and its data. Output: embeddings of some held-out things (of any, where
//! none are held out) and each one's nearest neighbours among some that were trained on. Which ones
//! these are follows from the data alone: they are spread evenly over it, not chosen.

use crate::snapshots::normalise;
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Neighbour, nearest};
use kinfold_data::{Data, Split};
use kinfold_nn::encoders::Model;
use kinfold_train::Error;
use kinfold_train::tensors::embed_rows;

/// The most images on the map, and the most that neighbours are looked for among.
const POINTS: usize = 400;
const SHELF: usize = 1600;
/// The neighbours of each.
pub(super) const NEIGHBOURS: usize = 8;

/// Some images and their neighbours.
pub(super) struct Sample<'a> {
    pub(super) data: &'a Data,
    /// Whether the points were held out and their neighbours trained on.
    pub(super) held_out: bool,
    /// Rows of the images that are looked at, by label.
    pub(super) points: Vec<usize>,
    /// Their embeddings, each of length 1.
    pub(super) embeddings: Vec<f32>,
    pub(super) dim: usize,
    /// The nearest neighbours of each, the nearest first; their rows are among all images.
    pub(super) neighbours: Vec<Vec<Neighbour>>,
    /// Whether labels can say what is a hit.
    pub(super) labelled: bool,
    /// Things that neighbours were looked for among.
    pub(super) among: usize,
}

impl<'a> Sample<'a> {
    pub(super) fn new(data: &'a Data, split: &Split, model: &Model) -> Result<Self, Error> {
        let device = Device::flex();
        let items = data.items();
        let held_out = !split.test.is_empty();
        let by_label = |rows: &[usize]| {
            let mut rows = rows.to_vec();
            rows.sort_by(|&a, &b| (&items.labels[a], a).cmp(&(&items.labels[b], b)));
            rows
        };
        let points = spread(&by_label(if held_out { &split.test } else { &split.train }), POINTS);
        let mut shelf = spread(&by_label(&split.train), SHELF);
        // Of neighbours that are equally near, the first of all images comes first.
        shelf.sort_unstable();
        let mut embeddings = embed_rows(model, data, &points, &device)?;
        let dim = embeddings.len() / points.len().max(1);
        let of_shelf = embed_rows(model, data, &shelf, &device)?;
        // One more, since a point that was trained on may find itself.
        let k = (NEIGHBOURS + 1).min(shelf.len());
        let found = match k {
            0 => vec![Vec::new(); points.len()],
            _ => nearest(Embeddings::new(&embeddings, dim)?, Embeddings::new(&of_shelf, dim)?, k)?,
        };
        let others = |(&point, found): (&usize, Vec<Neighbour>)| {
            let found = found.into_iter().map(|near| Neighbour { row: shelf[near.row], ..near });
            found.filter(|near| near.row != point).take(NEIGHBOURS).collect()
        };
        let neighbours = points.iter().zip(found).map(others).collect();
        normalise(&mut embeddings, dim.max(1));
        let among = shelf.len();
        let labelled = items.classes().0.len() >= 2;
        Ok(Self { labelled, data, held_out, points, embeddings, dim, neighbours, among })
    }

    pub(super) fn label(&self, row: usize) -> &'a str {
        &self.data.items().labels[row]
    }

    /// Whether a point's nearest neighbour has its label.
    pub(super) fn hit(&self, point: usize) -> bool {
        let nearest = self.neighbours[point].first();
        nearest.is_some_and(|n| self.label(n.row) == self.label(self.points[point]))
    }

    /// Points spread evenly over all, so over labels, too; and then some whose nearest neighbour is of
    /// another label, where there are labels.
    pub(super) fn shown(&self, even: usize, missed: usize) -> (Vec<usize>, Vec<usize>) {
        let all: Vec<usize> = (0..self.points.len()).collect();
        let even = spread(&all, even);
        if !self.labelled {
            return (even, Vec::new());
        }
        let missing: Vec<usize> =
            all.into_iter().filter(|&p| !self.hit(p) && !even.contains(&p)).collect();
        let missed = spread(&missing, missed);
        (even, missed)
    }

    /// The share of points whose nearest neighbour has their label.
    pub(super) fn hits(&self) -> f64 {
        let hits = (0..self.points.len()).filter(|&p| self.hit(p)).count();
        hits as f64 / self.points.len().max(1) as f64
    }
}

/// At most so many of the rows, evenly.
fn spread(rows: &[usize], most: usize) -> Vec<usize> {
    let n = rows.len();
    if n <= most {
        return rows.to_vec();
    }
    (0..most).map(|i| rows[(2 * i + 1) * n / (2 * most)]).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_spread_is_even_and_never_more_than_there_are() {
        let rows: Vec<usize> = (0..100).collect();
        assert_eq!(spread(&rows, 4), [12, 37, 62, 87]);
        assert_eq!(spread(&rows, 200), rows);
        assert!(spread(&[], 3).is_empty());
    }
}
