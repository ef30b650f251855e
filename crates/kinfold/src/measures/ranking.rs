//! How well queries find what they ask for among candidates that are not all theirs.
//!
//! Input: queries, candidates, and for each query which candidates are relevant. Output: the measures of
//! retrieval benchmarks, query by query, so that their means and intervals can be taken. Of candidates that
//! are exactly as similar, the relevant one counts as the last, so that embeddings that are all alike find
//! nothing.

use super::{check, same_dimension};
use crate::Error;
use crate::embeddings::{Element, Embeddings};
use crate::engine::Cosines;
use std::cmp::Ordering;

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The candidates that answer it, each once.
    pub relevant: Vec<usize>,
    /// A candidate that is the query itself, and is no answer.
    pub left_out: Option<usize>,
}

/// What the first ten candidates of a query are worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranking {
    /// The share of relevant candidates that are the first.
    pub recall_at_1: f64,
    /// The share of relevant candidates among the first ten.
    pub recall_at_10: f64,
    /// 1 / place of the first relevant candidate; 0 where it is not among the first ten.
    pub reciprocal_rank_at_10: f64,
    /// The discounted gain of the first ten, Σ 1 / log₂(place + 1), over the most that it can be.
    pub ndcg_at_10: f64,
}

impl Question {
    /// What a query's scores of all candidates are worth.
    pub fn ranking<S: PartialOrd + Copy>(&self, scores: &[S]) -> Ranking {
        let mut own: Vec<S> = self.relevant.iter().map(|&at| scores[at]).collect();
        own.sort_unstable_by(|a, b| b.partial_cmp(a).unwrap_or(Ordering::Equal));
        let mut is_wrong = vec![true; scores.len()];
        for &at in self.relevant.iter().chain(&self.left_out) {
            is_wrong[at] = false;
        }
        // A wrong candidate comes before every relevant one that is no more similar; `ahead[k]` are those
        // that do before the k-th and not before the one ahead of it.
        let mut ahead = vec![0; own.len() + 1];
        for (&score, _) in scores.iter().zip(&is_wrong).filter(|(_, wrong)| **wrong) {
            if own.last().is_some_and(|&least| score >= least) {
                ahead[own.partition_point(|&mine| mine > score)] += 1;
            }
        }
        let mut before = 0;
        let places = ahead[..own.len()].iter().enumerate().map(|(k, ahead)| {
            before += ahead;
            before + k + 1
        });
        Ranking::of(&places.collect::<Vec<usize>>())
    }
}

impl Ranking {
    /// Of the places of all relevant candidates, ascending from 1.
    fn of(places: &[usize]) -> Self {
        let relevant = places.len().max(1) as f64;
        let within =
            |k: usize| places.iter().filter(|&&place| place <= k).count() as f64 / relevant;
        let gain = |place: usize| 1.0 / (place as f64 + 1.0).log2();
        let gained: f64 =
            places.iter().filter(|&&place| place <= 10).map(|&place| gain(place)).sum();
        let most: f64 = (1..=places.len().min(10)).map(gain).sum();
        let first = places.first().filter(|&&place| place <= 10);
        Self {
            recall_at_1: within(1),
            recall_at_10: within(10),
            reciprocal_rank_at_10: first.map_or(0.0, |&place| 1.0 / place as f64),
            ndcg_at_10: if most > 0.0 { gained / most } else { 0.0 },
        }
    }
}

/// What each query's cosines with all candidates are worth; question i is query i's.
///
/// # Errors
/// When there are no queries or candidates, another number of questions, a question about a candidate that
/// there is not, or dimensions disagree, or a number is not finite.
pub fn rankings<T: Element>(
    queries: Embeddings<'_, T>,
    candidates: Embeddings<'_, T>,
    questions: &[Question],
) -> Result<Vec<Ranking>, Error> {
    same_dimension(&queries, &candidates)?;
    check(&queries, "queries", 1)?;
    check(&candidates, "candidates", 1)?;
    if questions.len() != queries.rows() {
        let (given, needed) = (questions.len(), queries.rows());
        return Err(Error::Count {
            what: "the number of questions",
            given,
            least: needed,
            most: needed,
        });
    }
    let asked = questions.iter().flat_map(|x| x.relevant.iter().chain(&x.left_out));
    let most = candidates.rows() - 1;
    if let Some(&given) = asked.max().filter(|&&at| at > most) {
        return Err(Error::Count { what: "a question's candidate", given, least: 0, most });
    }
    Ok(Cosines::with(candidates).each_row(queries, |i, row| questions[i].ranking(row)))
}

/// What `look` says of each query, given its number and its cosines with all candidates.
///
/// # Errors
/// When there are no candidates, dimensions disagree, or a number is not finite.
pub fn each_row<T: Element, O: Send>(
    queries: Embeddings<'_, T>,
    candidates: Embeddings<'_, T>,
    look: impl Fn(usize, &[T::Real]) -> O + Sync,
) -> Result<Vec<O>, Error> {
    same_dimension(&queries, &candidates)?;
    check(&queries, "queries", 0)?;
    check(&candidates, "candidates", 1)?;
    Ok(Cosines::with(candidates).each_row(queries, look))
}

/// The scores of two methods added up, each in standard deviations from its mean (z-scores); those of a method
/// that finds all alike are 0.
///
/// # Panics
/// When one has more scores than the other.
pub fn fused(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "both methods score the same candidates");
    let [a, b] = [standardized(a), standardized(b)];
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn standardized(scores: &[f32]) -> Vec<f32> {
    let n = scores.len() as f64;
    let mean = scores.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares = scores.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    let deviation = (squares / n).sqrt();
    let of = |&x: &f32| if deviation > 0.0 { (f64::from(x) - mean) / deviation } else { 0.0 };
    scores.iter().map(|x| of(x) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_give_the_measures_of_the_textbook() {
        let question =
            |relevant: &[usize], left_out| Question { relevant: relevant.into(), left_out };
        let scores = [0.9, 0.5, 0.7, 0.1];
        let first = question(&[0], None).ranking(&scores);
        assert_eq!((first.recall_at_1, first.ndcg_at_10), (1.0, 1.0));
        let third = question(&[1], None).ranking(&scores);
        assert_eq!((third.recall_at_1, third.reciprocal_rank_at_10), (0.0, 1.0 / 3.0));
        assert!((third.ndcg_at_10 - 0.5).abs() < 1e-12);
        // The query itself is no candidate.
        assert_eq!(question(&[1], Some(0)).ranking(&scores).reciprocal_rank_at_10, 0.5);
        // Places 1 and 3 of two: (1 + 1/2) / (1 + 1/log2 3).
        let two = question(&[0, 1], None).ranking(&scores);
        assert!((two.ndcg_at_10 - 1.5 / (1.0 + 1.0 / 3f64.log2())).abs() < 1e-12);
        assert_eq!((two.recall_at_1, two.recall_at_10), (0.5, 1.0));
        // What is level with an answer comes before it, but two answers do not push each other back.
        assert_eq!(question(&[3], None).ranking(&[0.5; 4]).reciprocal_rank_at_10, 0.25);
        assert_eq!(question(&[0, 1], None).ranking(&[0.5, 0.5, 0.1]).ndcg_at_10, 1.0);
        let far: Vec<f64> = (0..20).map(f64::from).collect();
        let last = question(&[9], None).ranking(&far);
        assert_eq!(
            (last.recall_at_10, last.ndcg_at_10, last.reciprocal_rank_at_10),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn embeddings_are_ranked_by_their_cosines() -> Result<(), Error> {
        let queries = [1.0f32, 0.0, 0.0, 2.0];
        let candidates = [3.0f32, 0.1, 1.0, 1.0, 0.0, 1.0];
        let questions =
            [[0], [1]].map(|relevant| Question { relevant: relevant.into(), left_out: None });
        let (queries, candidates) =
            (Embeddings::new(&queries, 2)?, Embeddings::new(&candidates, 2)?);
        let ranked = rankings(queries, candidates, &questions)?;
        assert_eq!(ranked.iter().map(|x| x.reciprocal_rank_at_10).collect::<Vec<_>>(), [1.0, 0.5]);
        assert!(rankings(queries, candidates, &questions[..1]).is_err());
        let beyond = [Question { relevant: vec![3], left_out: None }, questions[1].clone()];
        assert!(rankings(queries, candidates, &beyond).is_err());
        Ok(())
    }
}
