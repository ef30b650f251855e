//! Words that a tokenizer makes the same tokens of alone as within their text.
//!
//! Input: a tokenizer, texts. Output: a text's words, so that each distinct one needs to be tokenized once: in
//! texts most words are of few. The tokens are those of the whole text for two kinds of tokenizers, and others
//! are left alone:
//!
//! - BERT's (WordPiece and the like): it cleans characters one by one and splits at white space.
//! - SentencePiece's BPE as LLaMA has it, which writes spaces as `▁` and merges over a whole text: as long as no
//!   token has a `▁` behind another character, no merge crosses the beginning of a word.

use serde_json::json;
use tokenizers::{Model, ModelWrapper, Tokenizer};

/// What SentencePiece writes for a space.
const SPACE: char = '▁';

/// How texts fall into words.
#[derive(Debug, Clone)]
pub(super) struct Words {
    form: Form,
    /// Tokens that are found in a text before anything else is done.
    added: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Between white space.
    Bert,
    /// Each with the spaces before it.
    SentencePiece,
}

impl Words {
    /// None where a tokenizer's words may depend on each other.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let normalizer = serde_json::to_value(tokenizer.get_normalizer()).ok()?;
        let splits = serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?;
        let sentence_piece = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        let crosses = |token: &String| {
            let mut letters = token.chars().skip_while(|&letter| letter == SPACE);
            letters.any(|letter| letter == SPACE)
        };
        // Dropout draws merges anew each time.
        let merges_alike =
            || matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none());
        let form = if normalizer["type"] == "BertNormalizer" && splits["type"] == "BertPreTokenizer"
        {
            Form::Bert
        } else if normalizer == sentence_piece
            && splits.is_null()
            && merges_alike()
            && !tokenizer.get_vocab(false).keys().any(crosses)
        {
            Form::SentencePiece
        } else {
            return None;
        };
        let added = tokenizer.get_added_tokens_decoder();
        let added = added.into_values().map(|token| token.content).collect();
        Some(Self { form, added })
    }

    /// Whether a text is one that falls into words.
    pub(super) fn can_take(&self, text: &str) -> bool {
        let marked = self.form == Form::SentencePiece && text.contains(SPACE);
        !marked && !self.added.iter().any(|token| text.contains(token.as_str()))
    }

    /// Calls `each` with the words of a text, in order.
    pub(super) fn each<E>(
        &self,
        text: &str,
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.form {
            Form::Bert => {
                let mut words = text.split([' ', '\t', '\n', '\r']);
                words.try_for_each(|word| if word.is_empty() { Ok(()) } else { each(word) })
            }
            Form::SentencePiece => {
                let mut rest = text;
                // The first word has a space before it, if only one that is put there.
                let mut first = true;
                while !rest.is_empty() {
                    let spaces = rest.len() - rest.trim_start_matches(' ').len();
                    let end = rest[spaces..].find(' ').map_or(rest.len(), |end| spaces + end);
                    let (word, others) = rest.split_at(end);
                    match first {
                        true => each(&format!(" {word}"))?,
                        false => each(word)?,
                    }
                    (rest, first) = (others, false);
                }
                Ok(())
            }
        }
    }

    /// The tokens of a word, where the tokenizer would not take it as it is.
    pub(super) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        word: &str,
    ) -> Option<tokenizers::Result<Vec<u32>>> {
        (self.form == Form::SentencePiece).then(|| {
            let word = word.replace(' ', "▁");
            let tokens = tokenizer.get_model().tokenize(&word)?;
            Ok(tokens.into_iter().map(|token| token.id).collect())
        })
    }
}
