//! Measures on cases whose answer is known.

use kinfold::Embeddings;
use kinfold::measures::{Labelled, Neighbour, knn_accuracy, nearest, one_shot_accuracy};

mod common;
use common::normal;

/// Four clusters on the axes, `each` rows a class, the last row of each class on the next axis.
fn clusters(each: usize) -> (Vec<f64>, Vec<u64>) {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for class in 0..4 {
        for member in 0..each {
            let axis = if member + 1 == each { (class + 1) % 4 } else { class };
            rows.extend((0..4).map(|i| if i == axis { 2.0 + member as f64 } else { 0.0 }));
            labels.push(class as u64);
        }
    }
    (rows, labels)
}

#[test]
fn the_nearest_neighbour_decides() {
    let (rows, labels) = clusters(5);
    let train = Labelled::new(Embeddings::new(&rows, 4).unwrap(), &labels).unwrap();
    let axes = common::orthonormal(4);
    let test = Labelled::new(Embeddings::new(&axes, 4).unwrap(), &[0, 1, 2, 3]).unwrap();
    // On every axis stand four rows of its class and one of the class before it. With k = 1 the
    // first of the equals wins, which is of class 0 on axis 1 no more than anywhere else.
    assert_eq!(knn_accuracy(train, test, 5).unwrap(), 1.0);
    assert_eq!(knn_accuracy(train, test, 20).unwrap(), 1.0);
    let wrong = Labelled::new(Embeddings::new(&axes, 4).unwrap(), &[1, 2, 3, 0]).unwrap();
    assert_eq!(knn_accuracy(train, wrong, 5).unwrap(), 0.0);
    assert!(knn_accuracy(train, test, 0).is_err() && knn_accuracy(train, test, 21).is_err());
}

#[test]
fn one_shot_is_the_share_of_good_examples() {
    let (rows, labels) = clusters(5);
    let train = Labelled::new(Embeddings::new(&rows, 4).unwrap(), &labels).unwrap();
    let axes = common::orthonormal(4);
    let test = Labelled::new(Embeddings::new(&axes, 4).unwrap(), &[0, 1, 2, 3]).unwrap();
    let accuracy = one_shot_accuracy(train, test, 4000, 7).unwrap();
    // Axis a is right when its own class's example is one of the four good ones of five, and (but
    // for axis 0) the class before it, which wins ties, does not stand on it. Axis 0 is right, too,
    // when nothing stands on it and all are equal.
    let expected = (0.8 + 0.2 * 0.8 + 3.0 * 0.8 * 0.8) / 4.0;
    assert!((accuracy - expected).abs() < 0.02, "{accuracy} {expected}");
    let again = one_shot_accuracy(train, test, 4000, 7).unwrap();
    assert_eq!(accuracy.to_bits(), again.to_bits());
    assert_ne!(accuracy, one_shot_accuracy(train, test, 4000, 8).unwrap());
    assert!(one_shot_accuracy(train, test, 0, 7).is_err());
}

/// A row a class, so that every draw is the same: the nearest, found by blocked products, is that of f64,
/// and of equals the first.
#[test]
fn the_nearest_example_is_that_of_f64() {
    let (n, m, d) = (60, 200, 33);
    let mut train: Vec<f32> = normal(3, n * d).iter().map(|&x| x as f32).collect();
    for i in (1..n).filter(|i| i % 3 != 0) {
        let (before, here) = train.split_at_mut(i * d);
        here[..d].copy_from_slice(&before[(i - 1) * d..]);
        if i % 2 == 0 {
            here[5] = here[5].next_up();
        }
    }
    let test: Vec<f32> = normal(4, m * d).iter().map(|&x| x as f32).collect();
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let cosine = |row: &[f32], query: &[f32]| {
        dot(row, query) / (dot(row, row).sqrt() * dot(query, query).sqrt())
    };
    let nearest = |query: &[f32]| {
        let all = (0..n).map(|row| (row, cosine(&train[row * d..][..d], query)));
        all.rev().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(row, _)| row as u64).unwrap()
    };
    let predicted: Vec<u64> = test.chunks(d).map(nearest).collect();
    let labels: Vec<u64> = (0..n as u64).collect();
    let train = Labelled::new(Embeddings::new(&train, d).unwrap(), &labels).unwrap();
    let test = Labelled::new(Embeddings::new(&test, d).unwrap(), &predicted).unwrap();
    assert_eq!(one_shot_accuracy(train, test, 3, 0).unwrap(), 1.0);
}

#[test]
fn labels_must_match_rows() {
    let x = [1.0f32; 6];
    let error = Labelled::new(Embeddings::new(&x, 2).unwrap(), &[0, 1]).unwrap_err();
    assert_eq!(error.to_string(), "labels have 2 rows but embeddings have 3");
}

/// Neighbours found by blocked products are those of f64, ties and all: labels win by the first of
/// equals.
#[test]
fn neighbours_are_those_of_f64() {
    let (n, m, d) = (300, 40, 17);
    let mut train: Vec<f32> = normal(1, n * d).iter().map(|&x| x as f32).collect();
    // Every third row is a copy of the row before, and some differ in the last bit.
    for i in (1..n).filter(|i| i % 3 == 0) {
        let (before, here) = train.split_at_mut(i * d);
        here[..d].copy_from_slice(&before[(i - 1) * d..]);
        if i % 2 == 0 {
            here[0] = here[0].next_up();
        }
    }
    let test: Vec<f32> = normal(2, m * d).iter().map(|&x| x as f32).collect();
    let labels: Vec<u64> = (0..n as u64).map(|i| 1_000_000_007 * (i * 7 % 11)).collect();
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
    };
    let of = |x| Embeddings::new(x, d).unwrap();
    for k in [1, 2, 5, 40, n] {
        let expected: Vec<Vec<Neighbour>> = test
            .chunks(d)
            .map(|query| {
                let mut all: Vec<Neighbour> = (0..n)
                    .map(|row| Neighbour { row, cosine: cosine(&train[row * d..][..d], query) })
                    .collect();
                all.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.row.cmp(&b.row)));
                all.truncate(k);
                all
            })
            .collect();
        let found = nearest(of(&test), of(&train), k).unwrap();
        let rows = |all: &[Vec<Neighbour>]| -> Vec<usize> {
            all.iter().flatten().map(|neighbour| neighbour.row).collect()
        };
        assert_eq!(rows(&found), rows(&expected), "k = {k}");
        let cosines = found.iter().flatten().zip(expected.iter().flatten());
        assert!(cosines.into_iter().all(|(a, b)| (a.cosine - b.cosine).abs() < 1e-14));

        let predicted: Vec<u64> = expected
            .iter()
            .map(|neighbours| {
                let vote = |label: u64| -> f64 {
                    let own = neighbours.iter().filter(|near| labels[near.row] == label);
                    own.map(|near| ((near.cosine - 1.0) / 0.1).exp()).sum()
                };
                let mut classes: Vec<u64> = labels.clone();
                classes.sort_unstable();
                classes.dedup();
                classes.into_iter().rev().max_by(|a, b| vote(*a).total_cmp(&vote(*b))).unwrap()
            })
            .collect();
        let train = Labelled::new(of(&train), &labels).unwrap();
        let test = Labelled::new(of(&test), &predicted).unwrap();
        assert_eq!(knn_accuracy(train, test, k).unwrap(), 1.0, "k = {k}");
    }
    assert!(nearest(of(&[]), of(&train), 3).unwrap().is_empty());
    for (k, said) in [(0, "0"), (n + 1, "301")] {
        let refused = nearest(of(&test), of(&train), k).unwrap_err().to_string();
        assert!(
            refused.contains("the number of neighbours") && refused.contains(said),
            "{refused}"
        );
    }
    let mut hole = test.clone();
    hole[d + 3] = f32::NAN;
    let refused = nearest(of(&hole), of(&train), 1).unwrap_err().to_string();
    assert!(refused.contains("queries") && refused.contains("row 1, column 3"), "{refused}");
}
