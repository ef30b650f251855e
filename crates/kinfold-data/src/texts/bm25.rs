//! BM25 (Robertson and Zaragoza 2009), by which everyone measures retrieval of texts first.
//!
//! Input: documents, and a query. Output: the query's score of each document, as Lucene computes it: words in
//! lower case and stemmed as English, its stop words left out, k₁ = 1.2 and b = 0.75.

use rayon::prelude::*;
use rust_stemmers::{Algorithm, Stemmer};
use std::collections::HashMap;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Lucene's stop words of English.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
    "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "was", "will", "with",
];

/// Documents by their words.
#[derive(Debug, Clone)]
pub struct Bm25 {
    /// For each word the documents that have it, and what it gives them.
    postings: HashMap<String, Vec<(u32, f32)>>,
    documents: usize,
}

impl Bm25 {
    /// The words of some documents.
    pub fn new<S: AsRef<str> + Sync>(documents: &[S]) -> Self {
        let words: Vec<HashMap<String, u32>> =
            documents.par_iter().map(|text| counts(text.as_ref())).collect();
        let lengths: Vec<f32> =
            words.iter().map(|words| words.values().sum::<u32>() as f32).collect();
        let mean = lengths.iter().sum::<f32>() / lengths.len().max(1) as f32;
        let mut postings: HashMap<String, Vec<(u32, f32)>> = HashMap::new();
        for (document, words) in words.into_iter().enumerate() {
            let length = K1 * (1.0 - B + B * lengths[document] / mean.max(f32::MIN_POSITIVE));
            for (word, count) in words {
                let count = count as f32;
                let weight = count * (K1 + 1.0) / (count + length);
                postings.entry(word).or_default().push((document as u32, weight));
            }
        }
        let n = documents.len() as f32;
        for documents in postings.values_mut() {
            let have = documents.len() as f32;
            let inverse_frequency = (1.0 + (n - have + 0.5) / (have + 0.5)).ln();
            documents.iter_mut().for_each(|(_, weight)| *weight *= inverse_frequency);
        }
        Self { postings, documents: documents.len() }
    }

    /// A query's score of each document.
    pub fn scores(&self, query: &str) -> Vec<f32> {
        let mut scores = vec![0.0; self.documents];
        let mut words: Vec<(String, u32)> = counts(query).into_iter().collect();
        // So that sums are taken in one order.
        words.sort_unstable();
        for (word, count) in words {
            for &(document, weight) in self.postings.get(&word).into_iter().flatten() {
                scores[document as usize] += count as f32 * weight;
            }
        }
        scores
    }
}

/// How often a text has each word.
fn counts(text: &str) -> HashMap<String, u32> {
    let stemmer = Stemmer::create(Algorithm::English);
    let text = text.to_lowercase();
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let mut counts = HashMap::new();
    for word in words.filter(|word| !word.is_empty() && !STOP_WORDS.contains(word)) {
        *counts.entry(stemmer.stem(word).into_owned()).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_formula() {
        let bm25 = Bm25::new(&["The cats sat.", "A dog runs, and runs!", "cat and dog"]);
        let scores = bm25.scores("running cat");
        // Lengths without stop words: 2, 3, 2; mean 7/3.
        let weight = |count: f32, length: f32, have: f32| {
            let idf = (1.0 + (3.0 - have + 0.5) / (have + 0.5)).ln();
            idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / (7.0 / 3.0)))
        };
        let expected = [weight(1.0, 2.0, 2.0), weight(2.0, 3.0, 1.0), weight(1.0, 2.0, 2.0)];
        for (score, expected) in scores.iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{scores:?}");
        }
        assert_eq!(bm25.scores("the unknown"), [0.0; 3]);
    }
}
