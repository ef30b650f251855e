//! Query–key: queries choose among keys and explicit negatives, and both ways keys among queries.

use super::groups::{Groups, NONE, interned};
use super::guide::Guide;
use super::sides::Candidates;
use crate::embeddings::Element;
use crate::engine::problem::Shape;
use crate::engine::rows::{Comparison, Rows};
use crate::engine::threads::Team;
use crate::loss::{Batch, ContrastiveLoss, Negatives};

/// Queries, and the columns they choose among.
pub(crate) fn candidates<'a, T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'a, T>,
    shape: Shape,
    team: &Team,
) -> Candidates<'a, T> {
    let compared = |first, second| Rows::new(first, second, Comparison::of(loss), team);
    let alone = |x| compared(x, None);
    let (mut below_keys, mut negatives, mut per_query) = (None, None, None);
    match batch.negatives {
        Negatives::None => {}
        Negatives::Shared(x) if loss.in_batch => below_keys = Some(x),
        Negatives::Shared(x) => negatives = Some(alone(x)),
        Negatives::PerQuery(x) => per_query = Some(alone(x)),
    }
    let keys = batch.keys.unwrap_or(batch.queries);
    let groups = batch.ids.map(|ids| {
        let all = interned(ids.iter().copied());
        let rows = all[loss.offset..loss.offset + batch.queries.rows()].to_vec();
        let first_column = if loss.in_batch { 0 } else { keys.rows() };
        let mut columns = all[first_column.min(all.len())..].to_vec();
        columns.resize(shape.columns, NONE);
        Groups::new(rows, columns, true)
    });
    Candidates {
        negatives,
        per_query,
        groups,
        guide: batch.guide.map(|guide| Guide::new(&guide, team)),
        ..Candidates::new(shape, alone(batch.queries), Some(compared(keys, below_keys)))
    }
}
