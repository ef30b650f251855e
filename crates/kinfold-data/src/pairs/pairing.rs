//! What a pair is, and the order in which pairs are seen.
//!
//! Input: images, which of them to train on, and what a pair is. Output: the batches of an
//! epoch, a pure function of seed and epoch. What is left over when pairs are cut into batches
//! waits for another epoch.
//!
//! By `views`, every image is a pair once in an epoch; by `list`, every row. By `folder`, an epoch
//! is rounds, and every class is visited once in each: one of its images, the anchor, meets another.
//! There are as many rounds as a class has images in the mean, so each image is an anchor about
//! once. Classes count the same however large they are; but a class's anchors go on from epoch to
//! epoch, and each of its images is one before any is one again.

use super::split::Split;
use crate::Error;
use crate::items::{Items, Listed};
use serde::{Deserialize, Serialize};

/// What a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairSource {
    /// Two views of one image.
    Views,
    /// Two images of one sub-folder or label, a view of each.
    Folder,
    /// A row of a list, a view of each of its images.
    List,
}

/// What more is made of the images there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expansion {
    /// Nothing.
    #[default]
    None,
    /// Each quarter turn of a class counts as a further class. Wrong where turned images show the
    /// same thing, as circles do.
    Rotations,
    /// Each quarter turn of a class and of its mirror image counts as a further class. Wrong, too,
    /// where a mirror image shows the same thing.
    Symmetries,
}

/// What pairs are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairSettings {
    /// What a pair is; by default a row where the data is a list, else two views.
    pub of: Option<PairSource>,
    /// What more is made of the images there are.
    pub expand: Expansion,
    /// Whether pairs of one class may meet in a batch, where pairs are by folder. They are pushed
    /// apart then, unless the loss is told of their groups.
    pub allow_same_class: bool,
}

/// Two images that belong together, and what views of them follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The row whose view comes first.
    pub a: usize,
    /// The row whose view comes second; by views the same.
    pub b: usize,
    /// How both images lie before their views: so many quarter turns clockwise, from 4 on of the
    /// mirror image.
    pub pose: usize,
    /// Pairs of one group show the same thing.
    pub group: usize,
    /// What stands for the image in the random numbers of its views: by views the row, else the
    /// pair's number in its epoch, since an image may be seen more than once.
    pub key: usize,
    /// Of a list, its place there; else 0.
    pub place: usize,
}

/// A label with too few images for a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The label; empty for images that have none.
    pub label: String,
    /// How many images to train on have it.
    pub images: usize,
}

/// The pairs to train on.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Labels whose images are in no pair.
    pub left_out: Vec<LeftOut>,
    pub(super) kind: Kind,
    pub(super) poses: usize,
    /// Number of rows that keys are counted over.
    pub(super) rows: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Rows(Vec<usize>),
    Listed { pairs: Vec<Listed>, places: Vec<usize> },
    Classes { rows: Vec<Vec<usize>>, rounds: usize, mixed: bool },
}

impl Pairs {
    /// The pairs of the images to train on.
    ///
    /// # Errors
    /// When pairs are to come from a list but the data is none, or from folders but no label has
    /// two images.
    pub fn new(items: &Items, split: &Split, settings: &PairSettings) -> Result<Self, Error> {
        let of = settings.of.unwrap_or(if items.is_list() {
            PairSource::List
        } else {
            PairSource::Views
        });
        let mut left_out = Vec::new();
        let kind = match of {
            PairSource::Views => Kind::Rows(split.train.clone()),
            PairSource::List if items.is_list() => {
                let pair = |&place: &usize| items.listed[place];
                let pairs = split.train_pairs.iter().map(pair).collect();
                Kind::Listed { pairs, places: split.train_pairs.clone() }
            }
            PairSource::List => {
                return Err(Error::Setting(
                    "pairs are to come from a list, but the data is none: it is a .csv or .jsonl \
                     whose rows are pairs"
                        .into(),
                ));
            }
            PairSource::Folder => {
                let rows;
                (rows, left_out) = classes(items, &split.train)?;
                let n: usize = rows.iter().map(Vec::len).sum();
                let rounds = (n + rows.len() / 2) / rows.len();
                Kind::Classes { rows, rounds, mixed: settings.allow_same_class }
            }
        };
        let poses = match settings.expand {
            Expansion::None => 1,
            Expansion::Rotations => 4,
            Expansion::Symmetries => 8,
        };
        Ok(Self { left_out, kind, poses, rows: items.len() })
    }

    /// Pairs to look at and not to train on, and whether they were held out: where a batch of `least`
    /// or more can be made of what is held out, those, and else those that are trained on.
    pub fn to_look_at(
        items: &Items,
        split: &Split,
        settings: &PairSettings,
        least: usize,
    ) -> Result<(Self, bool), Error> {
        let held_out = Split {
            train: split.test.clone(),
            train_pairs: split.test_pairs.clone(),
            ..Split::default()
        };
        // Of a class, a single image may be held out.
        let held_out = Self::new(items, &held_out, settings).ok();
        match held_out.filter(|pairs| pairs.largest_batch() >= least) {
            Some(pairs) => Ok((pairs, true)),
            None => Ok((Self::new(items, split, settings)?, false)),
        }
    }

    /// What a pair is, in words.
    pub fn of(&self) -> &'static str {
        match self.kind {
            Kind::Rows(_) => "two views of an image",
            Kind::Listed { .. } => "a row of the list",
            Kind::Classes { .. } => "two images of a class",
        }
    }

    /// Pairs in an epoch.
    pub fn len(&self) -> usize {
        self.poses
            * match &self.kind {
                Kind::Rows(rows) => rows.len(),
                Kind::Listed { pairs, .. } => pairs.len(),
                Kind::Classes { rows, rounds, .. } => rows.len() * rounds,
            }
    }

    /// No pairs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether pairs that show the same thing may meet in a batch.
    pub fn share_groups(&self) -> bool {
        match &self.kind {
            Kind::Rows(_) => false,
            Kind::Classes { mixed, .. } => *mixed,
            Kind::Listed { pairs, .. } => {
                let mut groups: Vec<usize> = pairs.iter().map(|row| row.group).collect();
                groups.sort_unstable();
                groups.windows(2).any(|pair| pair[0] == pair[1])
            }
        }
    }

    /// Classes, in all their poses; nothing where pairs are not by folder.
    pub fn classes(&self) -> Option<usize> {
        match &self.kind {
            Kind::Classes { rows, .. } => Some(rows.len() * self.poses),
            _ => None,
        }
    }

    /// The most pairs that a batch can hold.
    pub fn largest_batch(&self) -> usize {
        match (&self.kind, self.classes()) {
            (Kind::Classes { mixed: false, .. }, Some(classes)) => classes,
            _ => self.len(),
        }
    }

    /// Whether a batch can be so large.
    ///
    /// # Errors
    /// [`Error::Setting`] where it cannot, saying why and what can be done.
    pub fn check_batch(&self, batch: usize) -> Result<(), Error> {
        let largest = self.largest_batch();
        if batch <= largest {
            return Ok(());
        }
        Err(Error::Setting(match self.classes() {
            Some(classes) if largest == classes && largest < self.len() => {
                let expand = if self.poses == 1 { ", expand rotations or symmetries" } else { "" };
                format!(
                    "batch is {batch} pairs, but a batch holds one pair of a class and there are \
                     {classes} classes with two images or more to train on: use --batch {classes} \
                     or less{expand}, or allow the same class"
                )
            }
            _ => format!(
                "batch is {batch} pairs, but the data has only {largest} to train on: use --batch \
                 {largest} or less"
            ),
        }))
    }
}

/// The rows to train on of each label that has two or more, and the labels that have not.
fn classes(items: &Items, train: &[usize]) -> Result<(Vec<Vec<usize>>, Vec<LeftOut>), Error> {
    let (labels, places) = items.classes();
    let mut rows = vec![Vec::new(); labels.len()];
    let mut train = train.to_vec();
    // Held-out rows are drawn by a shuffle; the order of the others has nothing to say.
    train.sort_unstable();
    for row in train {
        rows[places[row]].push(row);
    }
    let (mut whole, mut left_out) = (Vec::new(), Vec::new());
    for (label, rows) in labels.into_iter().zip(rows) {
        match rows.len() {
            0 => {}
            2.. if !label.is_empty() => whole.push(rows),
            images => left_out.push(LeftOut { label: label.to_owned(), images }),
        }
    }
    if whole.is_empty() {
        return Err(Error::Data(format!(
            "pairs by folder need a sub-folder with two images or more to train on, but of {} labels \
             none has: put the images of each class into a sub-folder of its own, or let a pair be \
             two views",
            left_out.len()
        )));
    }
    Ok((whole, left_out))
}
