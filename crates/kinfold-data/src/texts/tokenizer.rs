//! Texts as tokens.
//!
//! Input: a tokenizer.json of Hugging Face's kind, or texts to make one of. Output: the numbers of each
//! text's tokens. Tokens that stand for something unknown are left out: they say nothing of a text.

use super::words::Words;
use crate::Error;
use crate::settings::TokenizerSource;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, ModelWrapper, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, TokenizerBuilder, TokenizerImpl, Trainer,
};

/// What a trained tokenizer has in place of what it does not know.
const UNKNOWN: &str = "[UNK]";

/// Texts as bags of tokens, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bags {
    /// The tokens of all texts.
    pub ids: Vec<u32>,
    /// Where each text's tokens end.
    pub ends: Vec<usize>,
}

impl Bags {
    /// The tokens of one text.
    pub fn of(&self, row: usize) -> &[u32] {
        let begin = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[begin..self.ends[row]]
    }

    /// Adds a text.
    pub fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
    }
}

/// What makes tokens of texts.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    unknown: Option<u32>,
    rows: usize,
    /// How a text falls into words that can be tokenized alone; none where they cannot.
    words: Option<Words>,
}

/// The tokens of words that have been met.
type Known = HashMap<String, Box<[u32]>>;

impl Tokenizer {
    /// The tokenizer of a source; `texts` are what one is trained on.
    pub(crate) fn new<S: AsRef<str> + Sync>(
        source: &TokenizerSource,
        texts: &[S],
    ) -> Result<Self, Error> {
        match source {
            TokenizerSource::File(path) => Self::from_file(path),
            TokenizerSource::WordPiece { vocabulary } => word_piece(texts, *vocabulary),
            TokenizerSource::Bpe { vocabulary } => bpe(texts, *vocabulary),
        }
    }

    /// The tokenizer that a file describes.
    ///
    /// # Errors
    /// When the file cannot be read, or describes none.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        tokenizers::Tokenizer::from_bytes(&bytes)
            .map(Self::of)
            .map_err(|e| Error::data_file(path, format!("it describes no tokenizer: {e}")))
    }

    fn of(mut inner: tokenizers::Tokenizer) -> Self {
        // A text is all of its tokens, and as long as it is.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let unknown = match inner.get_model() {
            ModelWrapper::WordPiece(model) => inner.token_to_id(&model.unk_token),
            ModelWrapper::WordLevel(model) => inner.token_to_id(&model.unk_token),
            ModelWrapper::BPE(model) => {
                model.unk_token.as_ref().and_then(|token| inner.token_to_id(token))
            }
            ModelWrapper::Unigram(_) => {
                // The number is private, but the file has it.
                let model = serde_json::to_value(inner.get_model()).ok();
                model.and_then(|model| Some(model["unk_id"].as_u64()? as u32))
            }
        };
        let highest = inner.get_vocab(true).into_values().max();
        let words = Words::of(&inner);
        let rows = highest.map_or(0, |id| id as usize + 1);
        Self { inner: Arc::new(inner), unknown, rows, words }
    }

    /// One more than the highest number of a token: the rows that a table of them has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of the token that stands for what is unknown, which no text has.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The file that describes it, tokenizer.json.
    ///
    /// # Errors
    /// When it cannot be described.
    pub fn to_json(&self) -> Result<String, Error> {
        let said = |e| Error::Data(format!("the tokenizer cannot be written: {e}"));
        self.inner.to_string(false).map_err(said)
    }

    /// The tokens of each text.
    ///
    /// # Errors
    /// When the tokenizer fails at one.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Bags, Error> {
        let encode = |texts: &[S]| -> Result<Bags, Error> {
            let (mut bags, mut known) = (Bags::default(), Known::new());
            for text in texts {
                self.append(text.as_ref(), &mut bags.ids, &mut known)?;
                bags.ends.push(bags.ids.len());
            }
            Ok(bags)
        };
        // Few parts, as each has to learn the frequent words anew.
        let part = texts.len().div_ceil(4 * rayon::current_num_threads()).max(256);
        let parts: Vec<Bags> = texts.par_chunks(part).map(encode).collect::<Result<_, _>>()?;
        let mut all = Bags::default();
        all.ids.reserve_exact(parts.iter().map(|part| part.ids.len()).sum());
        for Bags { ids, ends } in parts {
            let before = all.ids.len();
            all.ids.extend(ids);
            all.ends.extend(ends.into_iter().map(|end| before + end));
        }
        Ok(all)
    }

    /// Adds a text's tokens to `ids`, word by word where that is the same.
    fn append(&self, text: &str, ids: &mut Vec<u32>, known: &mut Known) -> Result<(), Error> {
        let Some(words) = self.words.as_ref().filter(|words| words.can_take(text)) else {
            ids.extend(self.ids(text)?);
            return Ok(());
        };
        words.each(text, |word| {
            if let Some(found) = known.get(word) {
                ids.extend_from_slice(found);
                return Ok(());
            }
            let found = match words.tokens(&self.inner, word) {
                Some(found) => self.known_ids(found.map_err(|e| failed(text, &*e))?.into_iter()),
                None => self.ids(word)?,
            };
            ids.extend_from_slice(&found);
            known.insert(word.to_owned(), found.into());
            Ok(())
        })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| failed(text, &*e))?;
        Ok(self.known_ids(encoding.get_ids().iter().copied()))
    }

    /// Without what stands for something unknown.
    fn known_ids(&self, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        ids.filter(|id| Some(*id) != self.unknown).collect()
    }

    /// The tokens of a text, as they are written in the vocabulary.
    ///
    /// # Errors
    /// When the tokenizer fails at it.
    pub fn pieces(&self, text: &str) -> Result<Vec<String>, Error> {
        let encoding = self.inner.encode(text, false).map_err(|e| failed(text, &*e))?;
        Ok(encoding.get_tokens().to_vec())
    }
}

fn failed(text: &str, error: &dyn std::fmt::Display) -> Error {
    let begin: String = text.chars().take(60).collect();
    Error::Data(format!("the tokenizer fails at {begin:?}: {error}"))
}

/// The library's trainer numbers the pieces that continue a word in the order of a hash map, which is another
/// each time, and merges that are equally frequent follow these numbers. So it is given them as special tokens,
/// which come first.
fn word_piece<S: AsRef<str> + Sync>(texts: &[S], vocabulary: usize) -> Result<Tokenizer, Error> {
    let normalizer = BertNormalizer::default();
    let words = |text: &str| -> tokenizers::Result<Vec<String>> {
        let mut text = NormalizedString::from(text);
        normalizer.normalize(&mut text)?;
        let mut words = PreTokenizedString::from(text);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
    };
    let continuing = |text: &S| -> tokenizers::Result<BTreeSet<char>> {
        Ok(words(text.as_ref())?.iter().flat_map(|word| word.chars().skip(1)).collect())
    };
    let continuing = texts.par_iter().map(continuing).try_reduce(BTreeSet::new, |mut a, b| {
        a.extend(b);
        Ok(a)
    });
    let continuing = continuing.map_err(untrainable)?.into_iter().map(|c| format!("##{c}"));
    let first = std::iter::once(UNKNOWN.to_owned()).chain(continuing);
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(vocabulary)
        .special_tokens(first.map(|token| AddedToken::from(token, true)).collect())
        .show_progress(false)
        .build();
    trainer.feed(texts.iter().map(AsRef::as_ref), words).map_err(untrainable)?;
    let mut model =
        WordPiece::builder().unk_token(UNKNOWN.to_owned()).build().map_err(untrainable)?;
    trainer.train(&mut model).map_err(untrainable)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(untrainable)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let unknown = AddedToken::from(UNKNOWN, true);
    tokenizer.add_special_tokens([unknown]).map_err(untrainable)?;
    reopened(tokenizer.to_string(false).map_err(untrainable)?)
}

fn bpe<S: AsRef<str> + Sync>(texts: &[S], vocabulary: usize) -> Result<Tokenizer, Error> {
    let mut tokenizer: TokenizerImpl<BPE, BertNormalizer, ByteLevel, ByteLevel, ByteLevel> =
        TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(ByteLevel::default()))
            .with_post_processor(None)
            .with_decoder(Some(ByteLevel::default()))
            .build()
            .map_err(untrainable)?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts.iter().map(AsRef::as_ref)).map_err(untrainable)?;
    reopened(tokenizer.to_string(false).map_err(untrainable)?)
}

/// The tokenizer as the run's file will give it back.
fn reopened(json: String) -> Result<Tokenizer, Error> {
    tokenizers::Tokenizer::from_bytes(json.as_bytes()).map(Tokenizer::of).map_err(untrainable)
}

fn untrainable(error: tokenizers::Error) -> Error {
    Error::Data(format!("no tokenizer can be made of these texts: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    /// Texts of what tokenizers treat in ways of their own.
    fn odd_texts() -> Vec<String> {
        const PARTS: [&str; 24] = [
            "ab", "abc", "ba", "A", "é", "e\u{301}", " ", "  ", "\t", "\n", "\u{85}", "\u{a0}",
            "\u{200b}", "\u{0}", "中文", "の", "🙂", ",", "'s", "<s>", "[UNK]", "▁", "\u{b}",
            "\u{3000}",
        ];
        let text = |number: usize| {
            let mut random = Random::new(1, Purpose::Bootstrap { resample: number });
            (0..random.below(9)).map(|_| PARTS[random.below(PARTS.len())]).collect()
        };
        (0..3000).map(text).collect()
    }

    fn same_as_whole(tokenizer: &Tokenizer) {
        assert!(tokenizer.words.is_some());
        let texts = odd_texts();
        let bags = tokenizer.encode(&texts).unwrap();
        for (row, text) in texts.iter().enumerate() {
            assert_eq!(bags.of(row), tokenizer.ids(text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn words_have_the_tokens_that_they_have_within_a_text() {
        same_as_whole(&word_piece(&odd_texts(), 300).unwrap());
        let sentence_piece = |pieces: &[&str], merges: &[[&str; 2]]| {
            let letters = ["<unk>", "<s>", "▁", "a", "b", "c", "A", "é", "'", "s", ","];
            let vocabulary: serde_json::Map<String, serde_json::Value> =
                letters.iter().chain(pieces).zip(0..).map(|(&x, i)| (x.into(), i.into())).collect();
            let special = |id: u32, content: &str| {
                serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            };
            let json = serde_json::json!({
                "added_tokens": [special(0, "<unk>"), special(1, "<s>")],
                "normalizer": {"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                "pre_tokenizer": null,
                "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocabulary,
                    "merges": merges},
            });
            reopened(json.to_string()).unwrap()
        };
        let merges = [["▁", "a"], ["▁", "▁"], ["a", "b"], ["▁▁", "a"], ["▁a", "b"], ["b", "a"]];
        same_as_whole(&sentence_piece(&["▁a", "▁▁", "ab", "▁▁a", "▁ab", "ba"], &merges));
        // Where a token holds the end of one word and the beginning of the next, words depend on each other.
        let across = sentence_piece(&["▁a", "b▁"], &[["▁", "a"], ["b", "▁"]]);
        assert!(across.words.is_none());
    }
}
