//! Which pairs belong together.
//!
//! Input: pairs of rows, some with an id or a label. Output: for each pair the number of its group. Two pairs
//! that share an anchor, a positive, an id or a label are in one group, and groups that share a pair are one.

use crate::items::Listed;
use std::collections::HashMap;

/// Pairs, and what each shares with which.
#[derive(Default)]
pub(crate) struct Groups {
    /// For each pair an earlier one of its group, or itself.
    earlier: Vec<usize>,
    anchors: HashMap<usize, usize>,
    positives: HashMap<usize, usize>,
    ids: HashMap<String, usize>,
    labels: HashMap<String, usize>,
}

impl Groups {
    /// The next pair.
    pub(crate) fn pair(
        &mut self,
        anchor: usize,
        positive: usize,
        id: Option<String>,
        label: Option<String>,
    ) {
        let pair = self.earlier.len();
        self.earlier.push(pair);
        let shared = [
            Some(*self.anchors.entry(anchor).or_insert(pair)),
            Some(*self.positives.entry(positive).or_insert(pair)),
            id.map(|id| *self.ids.entry(id).or_insert(pair)),
            label.map(|label| *self.labels.entry(label).or_insert(pair)),
        ];
        for other in shared.into_iter().flatten() {
            let [a, b] = [self.first(pair), self.first(other)];
            self.earlier[a.max(b)] = a.min(b);
        }
    }

    /// The first pair of a pair's group.
    fn first(&mut self, mut pair: usize) -> usize {
        while self.earlier[pair] != pair {
            self.earlier[pair] = self.earlier[self.earlier[pair]];
            pair = self.earlier[pair];
        }
        pair
    }

    /// Writes its group into each pair; `listed` are those that were told, in order.
    pub(crate) fn write(self, listed: &mut [Listed]) {
        for (pair, group) in listed.iter_mut().zip(self.of_pairs()) {
            pair.group = group;
        }
    }

    /// The group of each pair, which is the number of its first pair.
    fn of_pairs(mut self) -> Vec<usize> {
        (0..self.earlier.len()).map(|pair| self.first(pair)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Groups;

    #[test]
    fn pairs_that_share_a_text_or_an_id_are_one_group() {
        let groups = |pairs: &[(usize, usize, Option<&str>)]| {
            let mut groups = Groups::default();
            for &(a, b, id) in pairs {
                groups.pair(a, b, id.map(str::to_owned), None);
            }
            groups.of_pairs()
        };
        assert_eq!(groups(&[(0, 1, None), (2, 3, None), (4, 1, None), (2, 5, None)]), [0, 1, 0, 1]);
        // The last pair joins two groups.
        assert_eq!(groups(&[(0, 1, None), (2, 3, None), (4, 3, None), (0, 3, None)]), [0, 0, 0, 0]);
        assert_eq!(groups(&[(0, 1, Some("x")), (2, 3, Some("y")), (4, 5, Some("x"))]), [0, 1, 0]);
        // An anchor elsewhere is no positive here: chains of hypernyms would all be one.
        assert_eq!(groups(&[(0, 1, None), (1, 2, None), (2, 3, None)]), [0, 1, 2]);
    }
}
