//! What a pair is, which images are trained on, and in which batches pairs are seen.
//!
//! Input: images and [`PairSettings`]. Output: [`Split`], [`Pairs`], and the batches of an epoch.

mod batches;
mod pairing;
mod split;

pub use pairing::{Expansion, LeftOut, Pair, PairSettings, PairSource, Pairs};
pub use split::Split;
