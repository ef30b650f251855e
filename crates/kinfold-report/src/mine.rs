//! Hard negatives: what looks like a query's match to a model, and is none.
//!
//! Input: pairs of texts and a run, or pairs of names and their vectors. Output: the file of pairs with columns
//! `negative_1`, `negative_2`, … Every document is compared with every query, some of these at a time, so that
//! memory grows with what is compared and not with its square.

use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Neighbour, nearest};
use kinfold_data::{Data, Items, Kind, write_negatives};
use kinfold_train::run::{SavedModel, write_whole};
use kinfold_train::tensors::{cosine, embed_documents, embed_rows};
use kinfold_train::{DataSource, Error, Settings};
use std::collections::BTreeMap;
use std::path::Path;

/// Queries that are looked up between two reports of progress.
const CHUNK: usize = 4096;

/// Which negatives are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MineSettings {
    /// So many of each pair, the most similar first.
    pub negatives: usize,
    /// From this rank on among the documents that are not known to belong to the query, counted from 1.
    pub first_rank: usize,
    /// To this rank.
    pub last_rank: usize,
    /// Only those whose cosine is below this part of the positive's: what is nearer may be a match that
    /// nobody wrote down.
    pub margin: f64,
}

impl Default for MineSettings {
    fn default() -> Self {
        Self { negatives: 5, first_rank: 1, last_rank: 100, margin: 0.95 }
    }
}

impl MineSettings {
    fn check(&self) -> Result<(), Error> {
        let Self { negatives, first_rank, last_rank, margin } = *self;
        let wrong = |text: String| Err(Error::Setting(text));
        if negatives == 0 {
            return wrong("negatives is 0, but at least 1 is needed".to_owned());
        }
        if first_rank == 0 || last_rank < first_rank || last_rank - first_rank + 1 < negatives {
            return wrong(format!(
                "ranks are {first_rank} to {last_rank}, but they count from 1 and must hold {negatives} negatives"
            ));
        }
        if !(margin > 0.0 && margin <= 1.0) {
            return wrong(format!("margin is {margin}, but it must be above 0 and at most 1"));
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mined {
    /// Pairs that have their negatives now.
    pub pairs: usize,
    /// Pairs for which there were too few, and which are left out.
    pub left_out: usize,
    /// The mean cosine of these pairs.
    pub of_pairs: f64,
    /// The mean cosine of queries and their negatives.
    pub of_negatives: f64,
}

/// Writes the pairs of `source` to `out` (.jsonl or .csv), each with its negatives; those of a `run`'s model, or
/// without one of the vectors themselves. `on_progress` is told the queries that are done, and all of them.
///
/// # Errors
/// When the run or the data cannot be read, the data is no list of pairs of texts or names, or `out` cannot be
/// written.
pub fn mine(
    run: Option<&Path>,
    source: &DataSource,
    settings: &MineSettings,
    out: &Path,
    on_progress: &mut dyn FnMut(usize, usize),
) -> Result<Mined, Error> {
    settings.check()?;
    check_name(out)?;
    let device = Device::flex();
    let saved = run.map(SavedModel::open).transpose()?;
    let base = match &saved {
        Some(saved) => saved.settings(Some(&source.data)),
        None => Settings { data: source.data.clone(), ..Settings::of_kind(Kind::Vectors) },
    };
    let data = Settings { vector: source.vector.clone(), ..base }.read()?;
    let items = data.items();
    if matches!(data, Data::Images(_)) || !items.is_list() || source.vector.documents.is_some() {
        return Err(Error::Data(format!(
            "{} is no list of pairs of texts or names, which is what negatives are added to",
            source.data
        )));
    }
    let asked = Asked::new(items);
    let (of_queries, of_documents) = match (run, &saved) {
        (Some(run), Some(saved)) => {
            let model = saved.trained(run, &device)?;
            (
                embed_rows(&model, &data, &asked.queries, &device)?,
                embed_documents(&model, &data, &asked.documents, &device)?,
            )
        }
        _ => {
            let raw = |rows| Ok::<_, Error>(data.raw(rows)?.unwrap_or_default());
            (raw(&asked.queries)?, raw(&asked.documents)?)
        }
    };
    let dim = of_queries.len() / asked.queries.len();
    let documents = Embeddings::new(&of_documents, dim)?;
    // So many may have to be passed over.
    let k = (settings.last_rank + asked.largest_group + 1).min(documents.rows());
    let mut negatives = BTreeMap::new();
    let mut mined = Mined { pairs: 0, left_out: 0, of_pairs: 0.0, of_negatives: 0.0 };
    let chunks = of_queries.chunks(CHUNK * dim).zip(asked.queries.chunks(CHUNK));
    for (number, (chunk, rows)) in chunks.enumerate() {
        on_progress(number * CHUNK, asked.queries.len());
        let found = nearest(Embeddings::new(chunk, dim)?, documents, k)?;
        for ((query, near), vector) in rows.iter().zip(found).zip(chunk.chunks(dim)) {
            for &place in &asked.places[query] {
                let own = documents.row(asked.place_of[&items.pair(place).1]);
                let positive = cosine(vector, own);
                let taken = asked.taken(items, place, *query, &near, positive, settings);
                if taken.len() < settings.negatives {
                    mined.left_out += 1;
                    continue;
                }
                mined.pairs += 1;
                mined.of_pairs += positive;
                mined.of_negatives += taken.iter().map(|near| near.cosine).sum::<f64>();
                let names = taken.iter().map(|near| asked.documents[near.row]);
                negatives.insert(items.line(place), names.collect::<Vec<usize>>());
            }
        }
    }
    on_progress(asked.queries.len(), asked.queries.len());
    if mined.pairs == 0 {
        let MineSettings { negatives, last_rank, margin, .. } = settings;
        return Err(Error::Data(format!(
            "no pair has {negatives} documents of the first {last_rank} below {margin} of its own cosine: ask for \
             fewer negatives, or for more ranks"
        )));
    }
    mined.of_pairs /= mined.pairs as f64;
    mined.of_negatives /= (mined.pairs * settings.negatives) as f64;
    let named = |line| {
        let rows: &Vec<usize> = negatives.get(&line)?;
        Some(rows.iter().map(|&row| items.names[row].as_str()).collect())
    };
    write_whole(out, |file| {
        Ok(write_negatives(Path::new(&source.data), &named, settings.negatives, out, file)?)
    })?;
    Ok(mined)
}

/// # Errors
/// When pairs cannot be written to a file of this name.
fn check_name(out: &Path) -> Result<(), Error> {
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl" | "csv") => Ok(()),
        _ => Err(Error::Setting(format!(
            "{} ends in neither .jsonl nor .csv, which is what pairs are written as",
            out.display()
        ))),
    }
}

/// Who asks among whom.
struct Asked {
    /// Rows of distinct queries and documents.
    queries: Vec<usize>,
    documents: Vec<usize>,
    /// The place of each row among the documents.
    place_of: BTreeMap<usize, usize>,
    /// The pairs of each query.
    places: BTreeMap<usize, Vec<usize>>,
    /// The group of each row that is a document.
    groups: Vec<Option<usize>>,
    /// The most documents of a group.
    largest_group: usize,
}

impl Asked {
    fn new(items: &Items) -> Self {
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let (mut documents, mut place_of) = (Vec::new(), BTreeMap::new());
        for place in 0..items.pairs() {
            let (query, document) = items.pair(place);
            places.entry(query).or_default().push(place);
            place_of.entry(document).or_insert_with(|| {
                documents.push(document);
                documents.len() - 1
            });
        }
        // Pairs that share a document are one group, so that it has one.
        let groups = items.groups_of_seconds();
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        groups.iter().flatten().for_each(|&group| *sizes.entry(group).or_default() += 1);
        let queries = places.keys().copied().collect();
        let largest_group = sizes.into_values().max().unwrap_or(0);
        Self { queries, documents, place_of, places, groups, largest_group }
    }

    /// The negatives of the pair at `place`, of the documents that are nearest to its query.
    fn taken<'n>(
        &self,
        items: &Items,
        place: usize,
        query: usize,
        near: &'n [Neighbour],
        positive: f64,
        settings: &MineSettings,
    ) -> Vec<&'n Neighbour> {
        let MineSettings { negatives, first_rank, last_rank, margin } = *settings;
        let group = items.group(place);
        // Nothing belongs to itself, and nothing of a group is a negative of the group.
        let others = near.iter().filter(|near| {
            let row = self.documents[near.row];
            row != query && self.groups[row] != Some(group)
        });
        let ranked = others.take(last_rank).skip(first_rank - 1);
        ranked.filter(|near| near.cosine < margin * positive).take(negatives).collect()
    }
}
