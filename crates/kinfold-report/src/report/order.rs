//! In which order a similarity matrix shows its structure.
//!
//! Input: labels, or similarities. Output: an order of the rows, and where groups lie in it.

/// Rows that belong together, side by side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    /// The rows in order.
    pub(super) rows: Vec<usize>,
    /// Each label and how many of the rows have it, in this order; empty where there are no labels.
    pub(super) groups: Vec<(String, usize)>,
}

/// By label; within a label, and where there are none, by similarity.
pub(super) fn order(labels: &[&str], similarity: &dyn Fn(usize, usize) -> f64) -> Order {
    let mut distinct: Vec<&str> = labels.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    for label in &distinct {
        let members: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == *label).collect();
        groups.push(((*label).to_owned(), members.len()));
        rows.extend(clustered(members, similarity));
    }
    if distinct.len() < 2 {
        groups.clear();
    }
    Order { rows, groups }
}

/// The order of the leaves of a tree that joins, again and again, the two clusters whose members are
/// most similar in the mean.
fn clustered(members: Vec<usize>, similarity: &dyn Fn(usize, usize) -> f64) -> Vec<usize> {
    let mut clusters: Vec<Vec<usize>> = members.into_iter().map(|i| vec![i]).collect();
    let mut between: Vec<Vec<f64>> = clusters
        .iter()
        .map(|a| clusters.iter().map(|b| similarity(a[0], b[0]) + similarity(b[0], a[0])).collect())
        .collect();
    while clusters.len() > 1 {
        let (mut best, mut at) = (f64::NEG_INFINITY, (0, 1));
        for i in 0..clusters.len() {
            for j in i + 1..clusters.len() {
                if between[i][j] > best {
                    (best, at) = (between[i][j], (i, j));
                }
            }
        }
        let (i, j) = at;
        let other = clusters.remove(j);
        let (of_i, of_j) = (clusters[i].len() as f64, other.len() as f64);
        clusters[i].extend(other);
        let from = between.remove(j);
        for k in 0..between.len() {
            between[k].remove(j);
            let far = from[if k < j { k } else { k + 1 }];
            between[i][k] = (of_i * between[i][k] + of_j * far) / (of_i + of_j);
        }
        for k in 0..between.len() {
            between[k][i] = between[i][k];
        }
    }
    clusters.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_first_and_what_is_similar_lies_side_by_side() {
        // On a line at these places, near is similar.
        let places = [0.0f64, 10.0, 0.3, 10.1, 0.1, 30.0];
        let near = |i: usize, j: usize| -(places[i] - places[j]).abs();
        let order_of = order(&[""; 6], &near);
        assert_eq!(order_of.groups, []);
        let at = |row: usize| order_of.rows.iter().position(|&r| r == row).expect("all there");
        assert!(at(0).abs_diff(at(4)) == 1 && at(1).abs_diff(at(3)) == 1, "{:?}", order_of.rows);
        assert!(at(5) == 0 || at(5) == 5);

        let labelled = order(&["b", "a", "b", "b", "a", "b"], &near);
        assert_eq!(labelled.groups, [("a".to_owned(), 2), ("b".to_owned(), 4)]);
        let mut firsts = labelled.rows[..2].to_vec();
        firsts.sort_unstable();
        assert_eq!(firsts, [1, 4]);
        assert_eq!(order(&[], &near).rows, Vec::<usize>::new());
    }
}
