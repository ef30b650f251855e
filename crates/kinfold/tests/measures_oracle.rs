//! Every measure beside its definition, dense and in f64, over shapes with and without tails.

use kinfold::measures::{
    alignment, dimension_spread, duplicates, effective_rank, hubness, mean_cosine, modality_gap,
    principal_components, retrieval, singular_values, two_clusters, uniformity,
};
use kinfold::{Embeddings, f16};

mod common;
use common::{normal, orthonormal};

/// Rows, dimension and seed; tiles are 6 by 16 or so, and 512 columns and 256 dimensions a pass.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (2, 1), (2, 3), (5, 2), (17, 31), (48, 16), (97, 257), (130, 7), (531, 5)];

fn unit(rows: &[f64], d: usize) -> Vec<Vec<f64>> {
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    rows.chunks(d).map(|row| row.iter().map(|x| x / length(row)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn mean(x: &[Vec<f64>]) -> Vec<f64> {
    let n = x.len() as f64;
    (0..x[0].len()).map(|l| x.iter().map(|row| row[l]).sum::<f64>() / n).collect()
}

fn near(what: &str, a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}: {a}, but {b} by definition");
}

/// Queries, and keys near them; the second row is all zeros, and the last two keys are the same.
fn pairs(n: usize, d: usize) -> [Vec<f64>; 2] {
    let mut queries = normal(n as u64, n * d);
    let noise = normal(d as u64 + 99, n * d);
    let mut keys: Vec<f64> = queries.iter().zip(&noise).map(|(x, e)| 3.0 * x + 2.0 * e).collect();
    if n > 4 {
        queries[d..2 * d].fill(0.0);
        keys.copy_within((n - 2) * d..(n - 1) * d, (n - 1) * d);
    }
    [queries, keys]
}

#[test]
fn measures_are_their_definitions() {
    for (n, d) in SHAPES {
        let [queries, keys] = pairs(n, d);
        let single = [&queries, &keys].map(|x| x.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let [q, k] = [&queries, &keys].map(|x| Embeddings::new(x, d).unwrap());
        let [q32, k32] = [&single[0], &single[1]].map(|x| Embeddings::new(x, d).unwrap());
        let [u, v] = [&queries, &keys].map(|x| unit(x, d));

        let expected = u.iter().zip(&v).map(|(u, v)| apart(u, v)).sum::<f64>() / n as f64;
        near("alignment", alignment(q, k).unwrap(), expected, 1e-12);
        near("alignment in f32", alignment(q32, k32).unwrap(), expected, 1e-6);

        let (m, c) = (mean(&u), mean(&v));
        let gap = modality_gap(q, k).unwrap();
        near("gap", gap.distance, apart(&m, &c).sqrt(), 1e-12);
        let all: Vec<Vec<f64>> = u.iter().chain(&v).cloned().collect();
        let middle = mean(&all);
        let total = all.iter().map(|x| apart(x, &middle)).sum::<f64>() / all.len() as f64;
        let between = (apart(&m, &middle) + apart(&c, &middle)) / 2.0;
        if total > 1e-12 {
            near("share of the gap", gap.share, between / total, 1e-9);
        }
        for (l, spread) in dimension_spread(q).unwrap().into_iter().enumerate() {
            let variance = u.iter().map(|x| (x[l] - m[l]).powi(2)).sum::<f64>() / n as f64;
            near("spread", spread, (variance * d as f64).sqrt(), 1e-9);
        }
        if n > 1 {
            let count = n as f64 * (n - 1) as f64;
            let of = |term: &dyn Fn(usize, usize) -> f64| {
                let others = |i: usize| (0..n).filter(move |&j| j != i);
                (0..n).map(|i| others(i).map(|j| term(i, j)).sum::<f64>()).sum::<f64>() / count
            };
            let expected = of(&|i, j| (-2.0 * apart(&u[i], &u[j])).exp()).ln();
            near("uniformity", uniformity(q).unwrap(), expected, 1e-12);
            near("uniformity in f32", uniformity(q32).unwrap(), expected, 1e-5);
            let expected = of(&|i, j| dot(&u[i], &u[j]));
            near("mean cosine", mean_cosine(q).unwrap(), expected, 1e-10);
        }

        // Equals of exact duplicates are told from the rest, whatever rounding does.
        let cosine = |i: usize, j: usize| {
            if j + 1 == n && n > 4 { dot(&u[i], &v[j - 1]) } else { dot(&u[i], &v[j]) }
        };
        let ranks = retrieval(q, k).unwrap();
        for (i, rank) in ranks.ranks.iter().enumerate() {
            let ahead = (0..n).filter(|&j| cosine(i, j) > cosine(i, i) + 1e-12).count();
            let level = (0..n).filter(|&j| j != i && (cosine(i, j) - cosine(i, i)).abs() <= 1e-12);
            let level = level.count();
            // In one dimension all cosines are 1, but for rounding.
            if d > 1 {
                assert_eq!((rank.ahead, rank.level), (ahead, level), "row {i} of {n}, {d}");
            }
        }
        if d > 1 {
            let most = 3.min(n);
            let mut found = vec![0.0; n];
            for i in 0..n {
                let mut order: Vec<usize> = (0..n).collect();
                let of = |j| cosine(i, j) + 0.0; // A zero has no sign here.
                order.sort_by(|&a, &b| of(b).total_cmp(&of(a)).then(a.cmp(&b)));
                order[..most].iter().for_each(|&j| found[j] += 1.0);
            }
            let m = found.iter().sum::<f64>() / n as f64;
            let moment =
                |p: i32| found.iter().map(|x: &f64| (x - m).powi(p)).sum::<f64>() / n as f64;
            let hubs = hubness(q, k, most).unwrap();
            if moment(2) > 0.0 {
                near("skewness", hubs.skewness, moment(3) / moment(2).powf(1.5), 1e-9);
            }
            near("largest hub", hubs.largest, found.iter().copied().fold(0.0, f64::max) / m, 1e-12);
        }
    }
}

#[test]
fn recall_shares_the_places_of_equals() {
    // Four keys all alike: each is first one time in four.
    let x = [1.0f32; 8];
    let x = Embeddings::new(&x, 2).unwrap();
    let all = retrieval(x, x).unwrap();
    assert_eq!([1, 2, 4, 9].map(|k| all.recall(k)), [0.25, 0.5, 1.0, 1.0]);
    assert_eq!(all.separation(), 0.5);
    near(
        "reciprocal rank",
        all.mean_reciprocal_rank(),
        (1.0 + 0.5 + 1.0 / 3.0 + 0.25) / 4.0,
        1e-12,
    );
    // Axes and their keys, turned by one: each query finds its own among the ties of cosine 0.
    let axes = orthonormal(3);
    let turned = [&axes[3..], &axes[..3]].concat();
    let (axes, turned) = (Embeddings::new(&axes, 3).unwrap(), Embeddings::new(&turned, 3).unwrap());
    let found = retrieval(axes, turned).unwrap();
    assert_eq!([1, 2, 3].map(|k| found.recall(k)), [0.0, 0.5, 1.0]);
    assert_eq!(found.separation(), 0.25);
    // More keys than queries.
    let two = Embeddings::strided(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2, 3, 3).unwrap();
    let found = retrieval(two, axes).unwrap();
    assert_eq!((found.recall(1), found.keys), (1.0, 3));
}

/// Singular values by one-sided Jacobi rotations, which share nothing with what is tested.
fn jacobi(rows: &[f64], n: usize, d: usize) -> Vec<f64> {
    let mut columns: Vec<Vec<f64>> =
        (0..d).map(|j| (0..n).map(|i| rows[i * d + j]).collect()).collect();
    for _ in 0..60 {
        for a in 0..d {
            for b in a + 1..d {
                let (x, y) = (dot(&columns[a], &columns[a]), dot(&columns[b], &columns[b]));
                let xy = dot(&columns[a], &columns[b]);
                if xy.abs() <= 1e-300 + 1e-16 * (x * y).sqrt() {
                    continue;
                }
                let zeta = (y - x) / (2.0 * xy);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                for i in 0..n {
                    let (p, q) = (columns[a][i], columns[b][i]);
                    (columns[a][i], columns[b][i]) = (c * p - c * t * q, c * t * p + c * q);
                }
            }
        }
    }
    let mut values: Vec<f64> = columns.iter().map(|x| dot(x, x).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values.truncate(n.min(d));
    values
}

#[test]
fn singular_values_are_right() {
    for (n, d) in [(1, 1), (1, 5), (5, 1), (7, 7), (30, 11), (11, 30), (40, 40), (200, 33)] {
        let rows = normal((n * d) as u64, n * d);
        let values = singular_values(Embeddings::new(&rows, d).unwrap()).unwrap();
        let expected = jacobi(&rows, n, d);
        assert_eq!(values.len(), n.min(d));
        for (a, b) in values.iter().zip(&expected) {
            // Squares are what is exact to 1e-16 of the largest.
            assert!((a * a - b * b).abs() < 1e-13 * expected[0].powi(2), "{n} {d}: {a} {b}");
        }
        let sum: f64 = expected.iter().sum();
        let entropy: f64 = expected.iter().map(|x| -x / sum * (x / sum).ln()).sum();
        near(
            "rank",
            effective_rank(Embeddings::new(&rows, d).unwrap()).unwrap(),
            entropy.exp(),
            1e-6,
        );
    }
    let axes = orthonormal(20);
    let of = |x: &[f64], d| effective_rank(Embeddings::new(x, d).unwrap()).unwrap();
    near("rank of axes", of(&axes, 20), 20.0, 1e-12);
    near("rank of one line", of(&[1.0, 2.0, 2.0, 4.0, -3.0, -6.0], 2), 1.0, 1e-7);
    assert_eq!(of(&[0.0; 6], 2), 0.0);
    // Neither scale is lost.
    near("rank of large rows", of(&[1e200, 0.0, 0.0, 1e200], 2), 2.0, 1e-12);
    near("rank of small rows", of(&[1e-200, 0.0, 0.0, 1e-200], 2), 2.0, 1e-12);
    // Wide enough for threads.
    let rows = normal(3, 300 * 280);
    let values = singular_values(Embeddings::new(&rows, 280).unwrap()).unwrap();
    let sum: f64 = values.iter().map(|x| x * x).sum();
    near("sum of squares", sum, rows.iter().map(|x| x * x).sum(), 1e-12);
}

#[test]
fn two_clusters_are_found_where_there_are_two() {
    let d = 6;
    let (axes, noise) = (orthonormal(d), normal(5, 90 * d));
    let rows: Vec<f64> = (0..90)
        .flat_map(|i| (0..d).map(move |l| (i, l)))
        .map(|(i, l)| axes[usize::from(i % 3 == 0) * d + l] + 0.02 * noise[i * d + l])
        .collect();
    let found = two_clusters(Embeddings::new(&rows, d).unwrap()).unwrap();
    let u = unit(&rows, d);
    let middle = mean(&u);
    let total: f64 = u.iter().map(|x| apart(x, &middle)).sum();
    let within: f64 = (0..2)
        .map(|c| {
            let members: Vec<_> =
                (0..90).filter(|i| usize::from(i % 3 == 0) == c).map(|i| u[i].clone()).collect();
            let middle = mean(&members);
            members.iter().map(|x| apart(x, &middle)).sum::<f64>()
        })
        .sum();
    near("share", found.share, 1.0 - within / total, 1e-9);
    near("variance", found.variance, total / 90.0, 1e-12);
    assert_eq!(found.smaller, 1.0 / 3.0);
    let even = two_clusters(Embeddings::new(&noise, d).unwrap()).unwrap();
    assert!(even.share < 0.2, "{even:?}");
    let point = two_clusters(Embeddings::new(&[1.0; 12], 3).unwrap()).unwrap();
    assert_eq!((point.variance, point.share, point.smaller), (0.0, 0.0, 0.0));
}

#[test]
fn duplicates_are_exact() {
    let rows = [1.0f32, 0.0, 1.0, -0.0, 2.0, 0.0, 1.0, 1e-45, 1.0, 0.0];
    let copies = duplicates(Embeddings::new(&rows, 2).unwrap()).unwrap();
    assert_eq!(copies, [3, 3, 1, 1, 3]);
}

#[test]
fn halves_and_strides_are_rows_too() {
    let rows: Vec<f16> = normal(1, 40 * 10).iter().map(|&x| f16::from_f64(x)).collect();
    let strided = Embeddings::strided(&rows, 40, 7, 10).unwrap();
    let plain = strided.to_f64();
    let plain = Embeddings::new(&plain, 7).unwrap();
    near("uniformity", uniformity(strided).unwrap(), uniformity(plain).unwrap(), 1e-6);
    near("rank", effective_rank(strided).unwrap(), effective_rank(plain).unwrap(), 1e-12);
    assert_eq!(retrieval(strided, strided).unwrap().recall(1), 1.0);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let rows = [1.0, 2.0, f64::NAN, 4.0, 5.0, 6.0];
    let (bad, good) = (Embeddings::new(&rows, 2).unwrap(), Embeddings::new(&[1.0; 6], 2).unwrap());
    let said = [
        uniformity(bad).unwrap_err(),
        mean_cosine(bad).unwrap_err(),
        effective_rank(bad).unwrap_err(),
        dimension_spread(bad).unwrap_err(),
        two_clusters(bad).unwrap_err(),
        duplicates(bad).unwrap_err(),
    ];
    for error in said {
        let expected = "embeddings hold NaN at row 1, column 0; every number must be finite";
        assert_eq!(error.to_string(), expected);
    }
    let expected = "keys hold NaN at row 1, column 0; every number must be finite";
    assert_eq!(alignment(good, bad).unwrap_err().to_string(), expected);
    assert_eq!(retrieval(good, bad).unwrap_err().to_string(), expected);
    assert_eq!(hubness(good, bad, 1).unwrap_err().to_string(), expected);
    let one = Embeddings::new(&[1.0, 2.0], 2).unwrap();
    let few = "embeddings have 1 row, but at least 2 are needed";
    assert_eq!(uniformity(one).unwrap_err().to_string(), few);
    let few = "keys have 1 row, but at least 3 are needed";
    assert_eq!(retrieval(good, one).unwrap_err().to_string(), few);
    assert_eq!(
        alignment(good, one).unwrap_err().to_string(),
        "keys have 1 rows but queries have 3"
    );
    let wide = Embeddings::new(&[1.0; 9], 3).unwrap();
    let wrong = "queries have dimension 2 but keys have dimension 3";
    assert_eq!(modality_gap(good, wide).unwrap_err().to_string(), wrong);
    assert!(hubness(good, good, 4).is_err() && hubness(good, good, 0).is_err());
}

#[test]
fn principal_components_are_those_of_the_singular_values() {
    let (n, d) = (300, 7);
    let basis = orthonormal(d);
    let mut rows = vec![0.0; n * d];
    for (row, factors) in rows.chunks_mut(d).zip(normal(5, n * d).chunks(d)) {
        for (l, factor) in factors.iter().enumerate() {
            let along = 5.0 * 0.6f64.powi(l as i32) * factor;
            row.iter_mut().zip(&basis[l * d..]).for_each(|(x, b)| *x += along * b);
        }
        row.iter_mut().for_each(|x| *x += 2.0);
    }
    let of = |rows| Embeddings::new(rows, d).unwrap();
    let all: Vec<Vec<f64>> = rows.chunks(d).map(<[f64]>::to_vec).collect();
    let middle = mean(&all);
    let centred: Vec<f64> = rows.iter().zip(middle.iter().cycle()).map(|(x, m)| x - m).collect();
    let squares: Vec<f64> = singular_values(of(&centred)).unwrap().iter().map(|s| s * s).collect();
    let total: f64 = squares.iter().sum();

    let found = principal_components(of(&rows), 3).unwrap();
    for (i, axis) in found.axes.chunks(d).enumerate() {
        near("share", found.shares[i], squares[i] / total, 1e-9);
        for (j, other) in found.axes.chunks(d).enumerate() {
            near("axes", dot(axis, other), f64::from(i == j), 1e-6);
        }
        let places = centred.chunks(d).zip(found.places.chunks(3));
        places.for_each(|(row, place)| near("place", place[i], dot(row, axis), 1e-9));
    }
    let flat = principal_components(of(&[0.5; 4 * 7]), 2).unwrap();
    assert!(flat.shares == [0.0; 2] && flat.axes.iter().all(|x| x.is_finite()));
    for count in [0, 8] {
        let refused = principal_components(of(&rows), count).unwrap_err().to_string();
        assert!(refused.contains("the number of components"), "{refused}");
    }
}
