//! Whether similarities are in the order that somebody gave them.

/// Spearman's ρ: the correlation of the ranks of `a` and of `b`, from −1 to 1, equals sharing their mean rank; 0
/// where one side is all alike. It is of as many numbers as the shorter has.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (ranks(&a[..n]), ranks(&b[..n]));
    // Ranks are 1 to n, whatever is equal.
    let mean = (n as f64 + 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let of_both = (sum(&a, &a) * sum(&b, &b)).sqrt();
    if of_both > 0.0 { sum(&a, &b) / of_both } else { 0.0 }
}

fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_unstable_by(|&i, &j| numbers[i].total_cmp(&numbers[j]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut first = 0;
    for alike in order.chunk_by(|&i, &j| numbers[i] == numbers[j]) {
        let mean = first as f64 + (alike.len() as f64 + 1.0) / 2.0;
        alike.iter().for_each(|&i| ranks[i] = mean);
        first += alike.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::rank_correlation;

    /// Against scipy.stats.spearmanr.
    #[test]
    fn ranks_correlate_as_in_the_textbook() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 9.0], &[10.0, 20.0, 21.0]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        let tied = rank_correlation(&[1.0, 2.0, 2.0, 4.0, 0.5], &[0.3, 0.1, 0.9, 0.9, 0.2]);
        assert!((tied - 0.5).abs() < 1e-12, "{tied}");
        assert_eq!(rank_correlation(&[1.0, 1.0], &[0.0, 1.0]), 0.0);
    }
}
