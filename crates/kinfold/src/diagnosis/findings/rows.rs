//! What is wrong with rows, whatever encoder they come from: zeros, copies, too few of them.

use super::{CHANCE, Case, FEW, Finding, Kind, Severity, percent};

/// The mean squared distance of pairs below which they are the same but for rounding.
const SAME: f64 = 1e-10;
/// The share of rows that are copies, near copies.
const COPIES: f64 = 0.01;
const NEAR_COPIES: f64 = 0.05;
/// The share of queries that are keys of other rows.
const AMONG: f64 = 0.2;
/// Fewer pairs than this say little.
const FEW_PAIRS: usize = 32;

pub(super) fn nothing_but_zeros(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    zeros_are(case, d.duplicates.zero_rows >= d.pairs, Severity::Problem)
}

pub(super) fn zeros(case: &Case<'_>) -> Option<Finding> {
    let (zeros, pairs) = (case.numbers.duplicates.zero_rows, case.numbers.pairs);
    zeros_are(case, zeros > 0 && zeros < pairs, Severity::Warning)
}

fn zeros_are(case: &Case<'_>, so: bool, severity: Severity) -> Option<Finding> {
    if !so {
        return None;
    }
    let d = case.numbers;
    let what = format!(
        "{} of {} embeddings are all zeros and have no direction.",
        d.duplicates.zero_rows,
        2 * d.pairs
    );
    Finding::new(
        Kind::ZeroRows,
        severity,
        what,
        "Their cosine with everything is 0 and they have no useful gradient. Dead ReLUs at the output \
         and empty inputs do this.",
    )
}

/// Queries are keys, but not their own: the same rows stand in both files, in another order.
pub(super) fn queries_among_keys(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let (share, found) = (d.duplicates.queries_among_keys, d.retrieval.queries_to_keys);
    // Where pairs are at chance, the rest of the files is wrong, too, and that is said.
    if share < AMONG || found.separation < CHANCE || d.sample.rows < FEW {
        return None;
    }
    let what = format!(
        "Queries are among the keys: {} of them are themselves a key of another row, which is then the \
         most similar one; so recall@1 is {} and recall@5 {}.",
        percent(share),
        percent(found.recall_at_1),
        percent(found.recall_at_5)
    );
    Finding::new(
        Kind::QueriesAmongKeys,
        Severity::Problem,
        what,
        "Leave the query itself out of the keys that it is compared with: in a loss by ids, which keep \
         rows of one identity from being negatives of each other; in a file by giving each pair once, \
         and not a and b as b and a again.",
    )
}

pub(super) fn same(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    if d.geometry.alignment >= SAME {
        return None;
    }
    let what =
        "Queries and keys are the same embeddings: every pair is at a cosine of 1.".to_owned();
    Finding::new(
        Kind::SameOnBothSides,
        Severity::Warning,
        what,
        "There is nothing to pull together, and recall says nothing. Give embeddings of two different \
         views, or of the two things that make a pair.",
    )
}

pub(super) fn duplicated(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let copies = &d.duplicates;
    let exact = copies.queries.max(copies.keys);
    let change = "Remove them, keep them out of one batch, or tell the loss (ids leave columns of the \
                  same identity out). As negatives they push a row from its own positive.";
    // Rows of zeros are alike, too, and are told as such.
    if exact >= COPIES + copies.zero_rows as f64 / d.pairs as f64 {
        let what = format!(
            "{} of the rows are there more than once, exactly. In one batch of {} they keep the loss \
             above {:.3}, at any temperature.",
            percent(exact),
            d.pairs,
            copies.floor
        );
        return Finding::new(Kind::Duplicates, Severity::Warning, what, change);
    }
    if copies.near >= NEAR_COPIES && d.sample.rows >= FEW_PAIRS {
        let what = format!(
            "{} of the keys have another one at a cosine of 0.999 or more, nearer than rows in so few \
             dimensions come to lie by chance; they keep the loss above about {:.3}.",
            percent(copies.near),
            copies.near_floor
        );
        return Finding::new(Kind::NearDuplicates, Severity::Warning, what, change);
    }
    None
}

pub(super) fn false_negatives(case: &Case<'_>) -> Option<Finding> {
    let same = case.numbers.false_negatives?;
    if same.push < 0.2 || same.push < 1.5 * same.share {
        return None;
    }
    let what = format!(
        "{} of the negatives have the row's own label, and {} of the push comes from them.",
        percent(same.share),
        percent(same.push)
    );
    Finding::new(
        Kind::FalseNegatives,
        Severity::Note,
        what,
        "If labels may be used in training, leave these out (mask_labels) or make them positives \
         (SupCon). If not, this is the price of not using them, and smaller batches or a debiased loss \
         lower it.",
    )
}

pub(super) fn few(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let n = d.sample.rows;
    if n >= FEW_PAIRS {
        return None;
    }
    // The spread of a mean of n ranks, each even between 0 and 1.
    let spread = 200.0 / (12.0 * n as f64).sqrt();
    let what = format!(
        "{n} pairs are too few for a verdict: of pairs that have nothing to do with each other the \
         separation would come out anywhere between {:.0} and {:.0} %.",
        (50.0 - spread).max(0.0),
        (50.0 + spread).min(100.0)
    );
    let change = format!("Give at least {FEW_PAIRS} pairs; some hundred tell more.");
    Finding::new(Kind::FewPairs, Severity::Note, what, change)
}
