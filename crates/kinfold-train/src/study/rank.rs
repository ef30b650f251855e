//! The effective rank of embeddings: in how many dimensions they really lie.
//!
//! Comes in: embeddings `[n, d]`. Goes out: `exp(H(σ / Σσ))` of their singular values σ, uncentred (Roy
//! and Vetterli 2007; RankMe, Garrido et al. 2023): from 1 to the lesser of n and d.

/// The effective rank of rows; 0 where all are zero.
pub(super) fn effective_rank(rows: &[f32], dim: usize) -> f64 {
    let mut gram = vec![0.0f64; dim * dim];
    for row in rows.chunks(dim) {
        for i in 0..dim {
            for j in 0..dim {
                gram[i * dim + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    diagonalise(&mut gram, dim);
    let values: Vec<f64> = (0..dim).map(|i| gram[i * dim + i].max(0.0).sqrt()).collect();
    let sum: f64 = values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let entropy = values.iter().map(|x| x / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln());
    entropy.sum::<f64>().exp()
}

/// Jacobi's rotations of a symmetric matrix, until what is off the diagonal is nothing.
fn diagonalise(a: &mut [f64], n: usize) {
    let trace: f64 = (0..n).map(|i| a[i * n + i].abs()).sum();
    for _ in 0..30 {
        let mut moved = false;
        for p in 0..n {
            for q in p + 1..n {
                let off = a[p * n + q];
                if off.abs() <= 1e-14 * trace {
                    continue;
                }
                moved = true;
                let half = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
                let tangent = half.signum() / (half.abs() + half.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
            }
        }
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::effective_rank;

    #[test]
    fn the_rank_is_that_of_the_directions() {
        // Three directions that are no axes, as often as each other, and one of them three times.
        let directions: [[f32; 4]; 3] =
            [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]];
        let even = effective_rank(&directions.concat(), 4);
        assert!((even - 3.0).abs() < 1e-6, "{even}");
        let one = effective_rank(&directions[0].repeat(5), 4);
        assert!((one - 1.0).abs() < 1e-5, "{one}");
        // σ are 2√9 and 2, so p are 3/4 and 1/4.
        let mut rows = directions[0].repeat(9);
        rows.extend(directions[1]);
        let entropy = -(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((effective_rank(&rows, 4) - entropy.exp()).abs() < 1e-6);
        assert_eq!(effective_rank(&[0.0; 8], 4), 0.0);
    }
}
