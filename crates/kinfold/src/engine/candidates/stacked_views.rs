//! Stacked views: every row chooses among all others, be they two views of each thing or rows with
//! labels.

use super::groups::{self, Groups, interned};
use super::sides::Candidates;
use crate::embeddings::Element;
use crate::engine::problem::Shape;
use crate::engine::rows::{Comparison, Rows};
use crate::engine::threads::Team;
use crate::loss::{Batch, ContrastiveLoss};

/// All views as rows and as columns.
pub(crate) fn candidates<'a, T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'a, T>,
    shape: Shape,
    team: &Team,
) -> Candidates<'a, T> {
    let views = Rows::new(batch.queries, batch.keys, Comparison::of(loss), team);
    // Both views of a thing have its label, or its id.
    let pairs = batch.queries.rows();
    let of_views = |of: &[u64]| interned((0..views.len()).map(|i| of[i % pairs]));
    let groups = batch.labels.or(batch.ids).map(of_views);
    let partners = match (batch.labels, &groups) {
        (Some(_), Some(labels)) => groups::partners(labels),
        _ => Vec::new(),
    };
    let duplicates = batch.labels.is_none();
    Candidates {
        groups: groups.map(|groups| Groups::new(groups.clone(), groups, duplicates)),
        partners,
        ..Candidates::new(shape, views, None)
    }
}
