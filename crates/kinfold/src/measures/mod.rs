//! What embeddings are worth: measures over embeddings, with labels or without.
//!
//! Input: embeddings `[n, d]`, in pairs, with labels, or alone. Output: numbers, each as its
//! documentation says. Rows are compared by their cosine throughout; a row of zeros has cosine 0 with
//! everything. Nothing here builds the matrix of all similarities: a block of its rows at a time is
//! enough. Results have the same bits for every number of threads.

mod correlation;
mod geometry;
mod labelled;
mod linear_probe;
mod neighbours;
mod principal;
mod ranking;
mod retrieval;
mod spectrum;

pub use correlation::rank_correlation;
pub(crate) use geometry::unit_rows;
pub use geometry::{
    Clusters, Gap, alignment, dimension_spread, duplicates, mean_cosine, modality_gap,
    two_clusters, uniformity,
};
pub use labelled::{Labelled, few_shot_accuracy, knn_accuracies, knn_accuracy, one_shot_accuracy};
pub use linear_probe::linear_probe_accuracy;
pub(crate) use neighbours::largest;
pub use neighbours::{Hubness, Neighbour, hubness, nearest};
pub(crate) use principal::Centred;
pub use principal::{PrincipalComponents, principal_components};
pub use ranking::{Question, Ranking, each_row, fused, rankings};
pub use retrieval::{Rank, Retrieval, retrieval};
pub(crate) use spectrum::rank_of;
pub use spectrum::{effective_rank, singular_values};

use crate::Error;
use crate::embeddings::{Element, Embeddings};

/// At least `needed` rows, all of finite numbers.
fn check<T: Element>(
    x: &Embeddings<'_, T>,
    matrix: &'static str,
    needed: usize,
) -> Result<(), Error> {
    if x.rows() < needed {
        return Err(Error::Few { matrix, given: x.rows(), needed });
    }
    x.check_finite(matrix)
}

/// A number between 1 and `most`.
fn check_count(what: &'static str, given: usize, most: usize) -> Result<(), Error> {
    if (1..=most).contains(&given) {
        return Ok(());
    }
    Err(Error::Count { what, given, least: 1, most })
}

/// Queries and keys of one dimension; row i of one belongs to row i of the other.
fn check_pairs<T: Element>(
    queries: &Embeddings<'_, T>,
    keys: &Embeddings<'_, T>,
) -> Result<(), Error> {
    same_dimension(queries, keys)?;
    if queries.rows() != keys.rows() {
        return Err(Error::Rows {
            left: "keys",
            left_rows: keys.rows(),
            right: "queries",
            right_rows: queries.rows(),
        });
    }
    check(queries, "queries", 1)?;
    check(keys, "keys", 1)
}

fn same_dimension<T: Element>(
    queries: &Embeddings<'_, T>,
    keys: &Embeddings<'_, T>,
) -> Result<(), Error> {
    if queries.dim() == keys.dim() {
        return Ok(());
    }
    Err(Error::Dimension {
        left: "queries",
        left_dim: queries.dim(),
        right: "keys",
        right_dim: keys.dim(),
    })
}
