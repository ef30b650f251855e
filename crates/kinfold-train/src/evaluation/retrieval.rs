//! Whether texts and vectors find those that belong to them: recall, reciprocal ranks and gains among all
//! documents, beside the model before training and, of texts, BM25.
//!
//! Input: things in pairs or with labels, which of them are asked about, models. Output: means with 95 %
//! intervals.

use crate::Error;
use crate::run::{Estimate, Retrieval, Retrieved};
use crate::tensors::{embed_documents, embed_rows};
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Question, Ranking, each_row, fused, rankings};
use kinfold_data::random::{Purpose, Random};
use kinfold_data::{Bm25, Data, Items, Split, Texts};
use kinfold_nn::encoders::Model;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The most queries that are asked; of more, as many are taken, spread evenly.
const QUERIES: usize = 2000;
/// Resamples of the queries that intervals are taken from.
const RESAMPLES: usize = 1000;

impl Retrieval {
    /// Of what is asked; none where nothing can be. `untrained` is the model before training.
    pub(crate) fn new(
        data: &Data,
        task: Option<Task>,
        untrained: &dyn Fn() -> Option<Model>,
        trained: &Model,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        let Some(task) = task else { return Ok(None) };
        let Task { queries, documents, .. } = &task;
        let [of_queries, of_documents] = task.embeddings(trained, data, device)?;
        let (trained, by_words) = match data {
            Data::Texts(texts) => {
                let [trained, alone, both] = task.by_words(texts, &of_queries, &of_documents)?;
                (trained, Some([alone, both]))
            }
            _ => (task.rank(&of_queries, &of_documents)?, None),
        };
        // What are numbers already can be compared as they are.
        let untrained = match (data.raw(queries)?, data.raw(documents)?) {
            (Some(queries), Some(documents)) => Some(task.rank(&queries, &documents)?),
            _ => untrained().map(|model| task.rankings(&model, data, device)).transpose()?,
        };
        let gain = untrained.as_ref().map(|before| {
            let pairs = trained.iter().zip(before);
            Estimate::of(&pairs.map(|(a, b)| a.ndcg_at_10 - b.ndcg_at_10).collect::<Vec<_>>())
        });
        Ok(Some(Self {
            queries: queries.len(),
            documents: documents.len(),
            bm25: by_words.as_ref().map(|[alone, _]| Retrieved::of(alone)),
            with_bm25: by_words.as_ref().map(|[_, both]| Retrieved::of(both)),
            untrained: untrained.as_deref().map(Retrieved::of),
            trained: Retrieved::of(&trained),
            gain,
        }))
    }
}

/// What is asked: rows of queries, rows of documents, and which of the documents each query asks for.
pub(crate) struct Task {
    queries: Vec<usize>,
    documents: Vec<usize>,
    questions: Vec<Question>,
}

impl Task {
    /// Of texts or vectors in pairs, the first members of those at the places `asked`, among the second members
    /// of all; of labelled vectors, those held out among those trained on. None of other things, and where
    /// nothing is asked.
    pub(crate) fn new(data: &Data, split: &Split, asked: &[usize]) -> Option<Self> {
        let items = data.items();
        let task = match data {
            Data::Images(_) => return None,
            Data::Texts(texts) if !items.is_list() || !texts.scores.is_empty() => return None,
            Data::Texts(_) => Self::of_pairs(items, asked, false),
            Data::Vectors(_) if items.is_list() => Self::of_pairs(items, asked, true),
            Data::Vectors(_) => Self::of_labels(items, &split.test, &split.train),
        };
        Some(task).filter(|task| !task.queries.is_empty() && !task.documents.is_empty())
    }

    /// The same with at most so many queries, spread evenly.
    fn of_at_most(self, queries: usize) -> Self {
        let all = self.queries.len();
        let taken = all.min(queries);
        let places = || (0..taken).map(|i| i * all / taken);
        Self {
            queries: places().map(|place| self.queries[place]).collect(),
            questions: places().map(|place| self.questions[place].clone()).collect(),
            documents: self.documents,
        }
    }

    /// `by_label`: whether documents of a query's label are what it asks for, too.
    fn of_pairs(items: &Items, asked: &[usize], by_label: bool) -> Self {
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
        let of_label = if by_label { by_label_of(items, &documents) } else { HashMap::new() };
        let question = |(query, mut relevant): (usize, Vec<usize>)| {
            let own = places.get(&query).copied();
            if let Some(alike) = of_label.get(items.labels[query].as_str()) {
                relevant.extend(alike.iter().copied().filter(|&at| Some(at) != own));
                relevant.sort_unstable();
                relevant.dedup();
            }
            Question { left_out: own.filter(|own| !relevant.contains(own)), relevant }
        };
        let queries = of_query.keys().copied().collect();
        let questions = of_query.into_iter().map(question).collect();
        Self { queries, documents, questions }.of_at_most(QUERIES)
    }

    /// Rows that ask for those of their label.
    fn of_labels(items: &Items, queries: &[usize], documents: &[usize]) -> Self {
        let of_label = by_label_of(items, documents);
        let relevant = |query: &usize| of_label.get(items.labels[*query].as_str());
        let queries: Vec<usize> =
            queries.iter().copied().filter(|query| relevant(query).is_some()).collect();
        let question = |alike: &Vec<usize>| Question { relevant: alike.clone(), left_out: None };
        let questions = queries.iter().filter_map(relevant).map(question).collect();
        Self { queries, documents: documents.to_vec(), questions }.of_at_most(QUERIES)
    }

    /// How each query finds what it asks for by a model's embeddings.
    pub(crate) fn rankings(
        &self,
        model: &Model,
        data: &Data,
        device: &Device,
    ) -> Result<Vec<Ranking>, Error> {
        let [queries, documents] = self.embeddings(model, data, device)?;
        self.rank(&queries, &documents)
    }

    /// The same among documents that are embedded already.
    pub(crate) fn rankings_among(
        &self,
        documents: &[f32],
        model: &Model,
        data: &Data,
        device: &Device,
    ) -> Result<Vec<Ranking>, Error> {
        self.rank(&embed_rows(model, data, &self.queries, device)?, documents)
    }

    /// A model's embeddings of the documents.
    pub(crate) fn embed_documents(
        &self,
        model: &Model,
        data: &Data,
        device: &Device,
    ) -> Result<Vec<f32>, Error> {
        embed_documents(model, data, &self.documents, device)
    }

    /// A model's embeddings of the queries and of the documents.
    fn embeddings(
        &self,
        model: &Model,
        data: &Data,
        device: &Device,
    ) -> Result<[Vec<f32>; 2], Error> {
        let queries = embed_rows(model, data, &self.queries, device)?;
        Ok([queries, self.embed_documents(model, data, device)?])
    }

    /// How each query finds what it asks for by its embedding, by its words (BM25), and by both together.
    fn by_words(
        &self,
        texts: &Texts,
        queries: &[f32],
        documents: &[f32],
    ) -> Result<[Vec<Ranking>; 3], Error> {
        let names = &texts.items.names;
        let bm25 = Bm25::new(&self.documents.iter().map(|&row| &names[row]).collect::<Vec<_>>());
        let dim = queries.len() / self.questions.len();
        let (queries, documents) =
            (Embeddings::new(queries, dim)?, Embeddings::new(documents, dim)?);
        let all = each_row(queries, documents, |i, cosines| {
            let scores = bm25.scores(&names[self.queries[i]]);
            let question = &self.questions[i];
            let both = fused(cosines, &scores);
            [question.ranking(cosines), question.ranking(&scores), question.ranking(&both)]
        })?;
        Ok([0, 1, 2].map(|method| all.iter().map(|rankings| rankings[method]).collect()))
    }

    /// The same by vectors of the queries and of the documents.
    fn rank(&self, queries: &[f32], documents: &[f32]) -> Result<Vec<Ranking>, Error> {
        let dim = queries.len() / self.questions.len();
        let documents = Embeddings::new(documents, dim)?;
        Ok(rankings(Embeddings::new(queries, dim)?, documents, &self.questions)?)
    }
}

/// The places of the documents of each label.
fn by_label_of<'i>(items: &'i Items, documents: &[usize]) -> HashMap<&'i str, Vec<usize>> {
    let mut of_label: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, &row) in documents.iter().enumerate() {
        let label = items.labels[row].as_str();
        if !label.is_empty() {
            of_label.entry(label).or_default().push(place);
        }
    }
    of_label
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
        let mean_of = |rows: &[usize]| {
            rows.iter().map(|&row| numbers[row]).sum::<f64>() / rows.len().max(1) as f64
        };
        Self::of_rows(numbers.len(), mean_of)
    }

    /// What `of` says of so many rows, and the interval of its bootstrap over these.
    pub(crate) fn of_rows(rows: usize, of: impl Fn(&[usize]) -> f64 + Sync) -> Self {
        let resample = |number: usize| {
            let mut random = Random::new(0, Purpose::Bootstrap { resample: number });
            of(&(0..rows).map(|_| random.below(rows)).collect::<Vec<usize>>())
        };
        let mut all: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resample).collect();
        all.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| all[(share * (RESAMPLES - 1) as f64).round() as usize];
        let mean = of(&(0..rows).collect::<Vec<usize>>());
        Self { mean, low: at(0.025), high: at(0.975) }
    }
}
