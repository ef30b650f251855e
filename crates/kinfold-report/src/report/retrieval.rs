//! How held-out texts or vectors find theirs, as a table and in words.
//!
//! Input: measures. Output: the part of the page that tells what a model of such things is worth.

use kinfold_train::{Estimate, Retrieval, Retrieved};
use maud::{Markup, html};

pub(super) fn table(found: &Retrieval) -> Markup {
    let Retrieval { queries, documents, bm25, with_bm25, untrained, trained, .. } = found;
    let methods = [("BM25 (words)", bm25.as_ref()), ("before training", untrained.as_ref())];
    html! {
        p {
            (queries) " queries that were held out, each to find its own among " (documents)
            " documents; in brackets the 95 % interval over queries."
        }
        div class="scroll" {
            table {
                thead {
                    tr {
                        @for name in ["method", "recall@1", "recall@10", "MRR@10", "nDCG@10"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for (name, of) in methods {
                        @if let Some(of) = of { (row(name, of, "")) }
                    }
                    (row("trained", trained, "best"))
                    @if let Some(both) = with_bm25 { (row("trained + BM25", both, "")) }
                }
            }
        }
        @if let Some(verdict) = found.verdict() { p { (verdict) } }
    }
}

fn row(name: &str, of: &Retrieved, class: &str) -> Markup {
    let Retrieved { recall_at_1, recall_at_10, mrr_at_10, ndcg_at_10 } = of;
    html! {
        tr {
            th scope="row" { (name) }
            @for Estimate { mean, low, high } in [recall_at_1, recall_at_10, mrr_at_10, ndcg_at_10] {
                td class=(class) { (format!("{mean:.3}")) " " small { (format!("[{low:.3}, {high:.3}]")) } }
            }
        }
    }
}
