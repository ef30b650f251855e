//! Whether texts find those that belong to them: recall, reciprocal ranks and gains among all documents,
//! beside BM25 and the model before training.
//!
//! Input: texts in pairs, which of the pairs are asked about, models. Output: means with 95 % intervals.

use crate::Error;
use crate::run::{Estimate, Retrieval, Retrieved};
use crate::tensors::embed_rows;
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Question, Ranking, rankings};
use kinfold_data::random::{Purpose, Random};
use kinfold_data::{Bm25, Data, Texts};
use kinfold_nn::encoders::Model;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The most queries that are asked; of more, as many are taken, spread evenly.
const QUERIES: usize = 2000;
/// Resamples of the queries that intervals are taken from.
const RESAMPLES: usize = 1000;

impl Retrieval {
    /// Of texts in pairs; `asked` are the pairs whose first members are queries, by their place. None where
    /// there are none, or the data is no list of pairs of texts. `untrained` is the model before training.
    pub(crate) fn new(
        data: &Data,
        asked: &[usize],
        untrained: &dyn Fn() -> Option<Model>,
        trained: &Model,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        let Data::Texts(texts) = data else { return Ok(None) };
        if asked.is_empty() {
            return Ok(None);
        }
        let Task { queries, documents, questions } = Task::new(texts, asked);
        let of = |model: &Model| -> Result<Vec<Ranking>, Error> {
            let [queries, documents] =
                [&queries, &documents].map(|rows| embed_rows(model, data, rows, device));
            let (queries, documents) = (queries?, documents?);
            let dim = queries.len() / questions.len();
            let documents = Embeddings::new(&documents, dim)?;
            Ok(rankings(Embeddings::new(&queries, dim)?, documents, &questions)?)
        };
        let names = &texts.items.names;
        let bm25 = Bm25::new(&documents.iter().map(|&row| &names[row]).collect::<Vec<_>>());
        let by_words = queries.par_iter().zip(&questions);
        let by_words = by_words.map(|(&row, question)| question.ranking(&bm25.scores(&names[row])));
        let trained = of(trained)?;
        let untrained = untrained().as_ref().map(of).transpose()?;
        let gain = untrained.as_ref().map(|before| {
            let pairs = trained.iter().zip(before);
            Estimate::of(&pairs.map(|(a, b)| a.ndcg_at_10 - b.ndcg_at_10).collect::<Vec<_>>())
        });
        Ok(Some(Self {
            queries: queries.len(),
            documents: documents.len(),
            bm25: Retrieved::of(&by_words.collect::<Vec<_>>()),
            untrained: untrained.as_deref().map(Retrieved::of),
            trained: Retrieved::of(&trained),
            gain,
        }))
    }
}

/// What is asked: rows of queries, rows of documents, and which of the documents each query asks for.
struct Task {
    queries: Vec<usize>,
    documents: Vec<usize>,
    questions: Vec<Question>,
}

impl Task {
    fn new(texts: &Texts, asked: &[usize]) -> Self {
        let items = &texts.items;
        let mut places = HashMap::new();
        let mut documents = Vec::new();
        for pair in 0..items.pairs() {
            let (_, document) = items.pair(pair);
            places.entry(document).or_insert_with(|| {
                documents.push(document);
                documents.len() - 1
            });
        }
        let mut of_query: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &pair in asked {
            of_query.entry(items.pair(pair).0).or_default();
        }
        // Whatever else belongs to a query is no wrong answer.
        for pair in 0..items.pairs() {
            let (query, document) = items.pair(pair);
            if let Some(relevant) = of_query.get_mut(&query)
                && !relevant.contains(&places[&document])
            {
                relevant.push(places[&document]);
            }
        }
        let all: Vec<(usize, Vec<usize>)> = of_query.into_iter().collect();
        let taken = all.len().min(QUERIES);
        let spread = (0..taken).map(|i| all[i * all.len() / taken].clone());
        let (queries, relevant): (Vec<usize>, Vec<Vec<usize>>) = spread.unzip();
        let question = |(query, relevant): (&usize, Vec<usize>)| Question {
            left_out: places.get(query).copied().filter(|own| !relevant.contains(own)),
            relevant,
        };
        let questions = queries.iter().zip(relevant).map(question).collect();
        Self { queries, documents, questions }
    }
}

impl Retrieved {
    fn of(rankings: &[Ranking]) -> Self {
        let estimate =
            |of: fn(&Ranking) -> f64| Estimate::of(&rankings.iter().map(of).collect::<Vec<_>>());
        Self {
            recall_at_1: estimate(|x| x.recall_at_1),
            recall_at_10: estimate(|x| x.recall_at_10),
            mrr_at_10: estimate(|x| x.reciprocal_rank_at_10),
            ndcg_at_10: estimate(|x| x.ndcg_at_10),
        }
    }
}

impl Estimate {
    /// The mean of some numbers, and the interval of its bootstrap.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let n = numbers.len().max(1);
        let mean = numbers.iter().sum::<f64>() / n as f64;
        let resample = |number: usize| {
            let mut random = Random::new(0, Purpose::Bootstrap { resample: number });
            (0..n).map(|_| numbers.get(random.below(n)).copied().unwrap_or(0.0)).sum::<f64>()
                / n as f64
        };
        let mut means: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resample).collect();
        means.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| means[(share * (RESAMPLES - 1) as f64).round() as usize];
        Self { mean, low: at(0.025), high: at(0.975) }
    }
}
