//! What a pair is and when it is seen.

use super::*;
use crate::random::{Purpose, Random};
use std::collections::{HashMap, HashSet};

fn all(images: &Images) -> Split {
    Split { train: (0..images.len()).collect(), test: vec![], ..Split::default() }
}

fn by_folder(images: &Images) -> PairSettings {
    assert!(!images.is_empty());
    PairSettings { of: Some(PairSource::Folder), ..Default::default() }
}

/// Classes of these sizes.
fn sized(sizes: &[usize]) -> Images {
    let labels: Vec<String> =
        sizes.iter().enumerate().flat_map(|(i, &n)| vec![format!("class {i:02}"); n]).collect();
    labelled(&labels.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn by_views_batches_are_what_they_always_were() {
    let images = Images::read("digits", &reading(8, 1)).unwrap();
    let split = Split::new(&images.items, 0.2);
    let pairs = Pairs::new(&images.items, &split, &PairSettings::default()).unwrap();
    assert_eq!((pairs.len(), pairs.largest_batch()), (1437, 1437));
    for (seed, epoch) in [(0, 0), (3, 7)] {
        let order = Random::new(seed, Purpose::Order { epoch }).order(split.train.len());
        let rows: Vec<usize> = order.into_iter().map(|i| split.train[i]).collect();
        let batches = pairs.batches(479, seed, epoch);
        assert_eq!(batches.len(), 3);
        for (pair, row) in batches.concat().iter().zip(rows) {
            assert_eq!(*pair, Pair { a: row, b: row, pose: 0, group: row, key: row, place: 0 });
        }
    }
    // The embedded digits are always split the same way.
    assert_eq!((split.test[..3].to_vec(), split.train[..3].to_vec()), golden_rows());
}

/// As the released version splits them.
fn golden_rows() -> (Vec<usize>, Vec<usize>) {
    let order = Random::new(0, Purpose::Split).order(1797);
    (order[..3].to_vec(), order[360..363].to_vec())
}

#[test]
fn a_quarter_turn_of_every_image_is_a_pair_of_its_own() {
    let images = labelled(&["", "", ""]);
    let settings = PairSettings { expand: Expansion::Rotations, ..Default::default() };
    let pairs = Pairs::new(&images.items, &all(&images), &settings).unwrap();
    let batch = pairs.batches(12, 0, 0).remove(0);
    let seen: HashSet<_> = batch.iter().map(|pair| (pair.a, pair.b, pair.pose)).collect();
    assert_eq!((pairs.len(), seen.len()), (12, 12));
    assert_eq!(batch.iter().map(|pair| pair.key).collect::<HashSet<_>>().len(), 12);
}

#[test]
fn by_folder_a_batch_holds_a_class_once() {
    // 20 classes, and batches that are cut across rounds in every way.
    let images = sized(&[5, 4, 3, 4].repeat(5));
    let pairs = Pairs::new(&images.items, &all(&images), &by_folder(&images)).unwrap();
    assert_eq!((pairs.classes(), pairs.len(), pairs.largest_batch()), (Some(20), 80, 20));
    for batch in 1..=20 {
        let batches = pairs.batches(batch, 1, 2);
        assert_eq!(batches.len(), 80 / batch, "a batch of {batch}");
        for pairs in &batches {
            assert_eq!(pairs.len(), batch);
            let groups: HashSet<usize> = pairs.iter().map(|pair| pair.group).collect();
            assert_eq!(groups.len(), batch);
            for pair in pairs {
                assert_ne!(pair.a, pair.b);
                assert_eq!(images.items.labels[pair.a], images.items.labels[pair.b]);
            }
        }
        let mut keys: Vec<usize> = batches.concat().iter().map(|pair| pair.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 80 / batch * batch, "every pair has a key of its own");
    }
}

#[test]
fn each_image_is_an_anchor_about_once_and_none_is_forgotten() {
    let images = sized(&[2, 3, 4, 5, 6]);
    let pairs = Pairs::new(&images.items, &all(&images), &by_folder(&images)).unwrap();
    assert_eq!(pairs.len(), 20);
    let mut anchors = HashMap::new();
    let mut partners: HashMap<usize, HashSet<usize>> = HashMap::new();
    for epoch in 0..60 {
        for pair in pairs.batches(1, 5, epoch).concat() {
            *anchors.entry(pair.a).or_insert(0) += 1;
            partners.entry(pair.a).or_default().insert(pair.b);
        }
    }
    // Four visits an epoch; 240 of each class, divided evenly among its images.
    for row in 0..images.len() {
        let class =
            images.items.labels.iter().filter(|label| **label == images.items.labels[row]).count();
        assert_eq!(anchors[&row], 240 / class);
        assert_eq!(partners[&row].len(), class - 1, "every other image is met");
    }
    // With classes of one size, each is an anchor exactly once an epoch.
    let images = sized(&[4; 6]);
    let pairs = Pairs::new(&images.items, &all(&images), &by_folder(&images)).unwrap();
    let anchors: HashSet<usize> = pairs.batches(6, 0, 3).concat().iter().map(|p| p.a).collect();
    assert_eq!(anchors.len(), 24);
}

#[test]
fn batches_follow_from_seed_and_epoch_alone() {
    let images = sized(&[3; 8]);
    let rotated = PairSettings { expand: Expansion::Rotations, ..by_folder(&images) };
    for settings in [PairSettings::default(), by_folder(&images), rotated] {
        let pairs = Pairs::new(&images.items, &all(&images), &settings).unwrap();
        let again = Pairs::new(&images.items, &all(&images), &settings).unwrap();
        // Nothing remembers the epochs before.
        pairs.batches(4, 1, 1);
        assert_eq!(pairs.batches(4, 1, 2), again.batches(4, 1, 2));
        assert_ne!(pairs.batches(4, 1, 2), pairs.batches(4, 1, 3));
        assert_ne!(pairs.batches(4, 1, 2), pairs.batches(4, 2, 2));
    }
}

#[test]
fn rotations_make_four_classes_of_one_and_symmetries_eight() {
    let images = sized(&[3; 5]);
    for (expand, poses) in [(Expansion::Rotations, 4), (Expansion::Symmetries, 8)] {
        let settings = PairSettings { expand, ..by_folder(&images) };
        let pairs = Pairs::new(&images.items, &all(&images), &settings).unwrap();
        let n = 5 * poses;
        assert_eq!((pairs.classes(), pairs.len()), (Some(n), 3 * n));
        let batches = pairs.batches(n, 0, 0);
        for batch in &batches {
            let classes: HashSet<_> =
                batch.iter().map(|pair| (&images.items.labels[pair.a], pair.pose)).collect();
            assert_eq!(classes.len(), n);
        }
        let shown: HashSet<_> = batches.concat().iter().map(|pair| (pair.a, pair.pose)).collect();
        assert_eq!(shown.len(), 3 * n, "every pose of every image is an anchor once");
    }
}

#[test]
fn a_batch_of_more_pairs_than_classes_is_refused_unless_it_may_mix() {
    let images = sized(&[4; 6]);
    let settings = by_folder(&images);
    let pairs = Pairs::new(&images.items, &all(&images), &settings).unwrap();
    assert!(pairs.check_batch(6).is_ok());
    let said = pairs.check_batch(7).unwrap_err();
    assert!(said.is_usage());
    let said = said.to_string();
    for part in ["batch is 7 pairs", "6 classes", "--batch 6", "expand rotations", "same class"] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    let mixed = PairSettings { allow_same_class: true, ..settings };
    let pairs = Pairs::new(&images.items, &all(&images), &mixed).unwrap();
    assert_eq!((pairs.largest_batch(), pairs.batches(10, 0, 0).len()), (24, 2));
    let said = pairs.check_batch(25).unwrap_err().to_string();
    assert!(said.contains("only 24") && said.contains("--batch 24"), "{said}");
}

#[test]
fn labels_without_a_pair_are_named_and_counted() {
    let images = labelled(&["", "a", "b", "a", "", "c", "a"]);
    let pairs = Pairs::new(&images.items, &all(&images), &by_folder(&images)).unwrap();
    let left_out: Vec<_> = pairs.left_out.iter().map(|l| (&*l.label, l.images)).collect();
    assert_eq!(left_out, [("", 2), ("b", 1), ("c", 1)]);
    assert_eq!(pairs.classes(), Some(1));
    // Images held out are in no pair.
    let split = Split { train: vec![0, 1, 2, 3, 4, 5], test: vec![6], ..Split::default() };
    let pairs = Pairs::new(&images.items, &split, &by_folder(&images)).unwrap();
    let seen: HashSet<_> =
        (0..9).flat_map(|e| pairs.batches(1, 0, e).concat()).map(|p| p.b).collect();
    assert_eq!(seen, HashSet::from([1, 3]));

    let images = labelled(&["a", "b", "", ""]);
    let said =
        Pairs::new(&images.items, &all(&images), &by_folder(&images)).unwrap_err().to_string();
    assert!(said.contains("of 3 labels none has"), "{said}");
}

#[test]
fn a_picture_turns_clockwise_and_is_mirrored_first() {
    let picture = Picture {
        width: 3,
        height: 2,
        channels: 1,
        pixels: vec![1, 2, 3, 4, 5, 6].into(),
        white: 6,
    };
    let posed = |pose| picture.clone().posed(pose);
    assert_eq!((posed(1).width, posed(1).height), (2, 3));
    assert_eq!(*posed(1).pixels, [4, 1, 5, 2, 6, 3]);
    assert_eq!(*posed(2).pixels, [6, 5, 4, 3, 2, 1]);
    assert_eq!(*posed(3).pixels, [3, 6, 2, 5, 1, 4]);
    assert_eq!(posed(2).posed(3), posed(1));
    assert_eq!(posed(4).pixels.to_vec(), [3, 2, 1, 6, 5, 4]);
    assert_eq!(posed(6).pixels.to_vec(), [4, 5, 6, 1, 2, 3], "upside down");
    assert_eq!((5..8).map(posed).collect::<Vec<_>>(), [1, 2, 3].map(|q| posed(4).posed(q)));
    assert_eq!(posed(8), picture);
    let colours = Picture {
        width: 1,
        height: 2,
        channels: 3,
        pixels: vec![1, 2, 3, 4, 5, 6].into(),
        white: 255,
    };
    assert_eq!(*colours.clone().posed(1).pixels, [4, 5, 6, 1, 2, 3]);
    let planes: Vec<u8> = colours.floats().iter().map(|x| (x * 255.0) as u8).collect();
    assert_eq!(planes, [1, 4, 2, 5, 3, 6]);
}
