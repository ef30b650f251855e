//! The one error type of this crate. Every message says what was given and what was needed.

use crate::conflict::Conflict;

/// What can be wrong with the input of a loss or a measure.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A temperature that is zero, negative, infinite or not a number.
    #[error("temperature is {given}, but it must be a finite number above 0")]
    Temperature {
        /// The value that was given.
        given: f64,
    },

    /// The data does not have the length that the shape asks for.
    #[error(
        "{rows} rows of {dim} numbers, {stride} apart, need {needed} numbers, but {given} were given"
    )]
    Length {
        /// Rows asked for.
        rows: usize,
        /// Numbers in a row.
        dim: usize,
        /// Distance between the starts of two rows.
        stride: usize,
        /// Numbers needed.
        needed: usize,
        /// Numbers given.
        given: usize,
    },

    /// A flat slice whose length is no multiple of the dimension.
    #[error("{given} numbers do not divide into rows of {dim}")]
    Ragged {
        /// Numbers given.
        given: usize,
        /// Numbers in a row.
        dim: usize,
    },

    /// Rows of no numbers at all.
    #[error("embeddings need a dimension of at least 1, but it is 0")]
    ZeroDimension,

    /// A row stride that would make rows overlap.
    #[error("a row stride of {stride} is less than the dimension {dim}, so rows would overlap")]
    Stride {
        /// The stride that was given.
        stride: usize,
        /// Numbers in a row.
        dim: usize,
    },

    /// No rows.
    #[error("{matrix} have no rows, but at least {needed} are needed")]
    Empty {
        /// Which matrix.
        matrix: &'static str,
        /// The least number of rows.
        needed: usize,
    },

    /// Fewer rows than a measure has a meaning for.
    #[error(
        "{matrix} have {given} row{}, but at least {needed} are needed",
        if *given == 1 { "" } else { "s" }
    )]
    Few {
        /// Which matrix.
        matrix: &'static str,
        /// Its rows.
        given: usize,
        /// The least number of rows.
        needed: usize,
    },

    /// Two matrices whose rows should correspond have different numbers of them.
    #[error("{left} have {left_rows} rows but {right} have {right_rows}")]
    Rows {
        /// The first matrix.
        left: &'static str,
        /// Its rows.
        left_rows: usize,
        /// The second matrix.
        right: &'static str,
        /// Its rows.
        right_rows: usize,
    },

    /// Two matrices with different dimensions.
    #[error("{left} have dimension {left_dim} but {right} have dimension {right_dim}")]
    Dimension {
        /// The first matrix.
        left: &'static str,
        /// Its dimension.
        left_dim: usize,
        /// The second matrix.
        right: &'static str,
        /// Its dimension.
        right_dim: usize,
    },

    /// Query i's positive would lie beyond the last key.
    #[error(
        "query {last} has its positive at key {last} + {offset}, but there are only {keys} keys"
    )]
    Offset {
        /// The last query.
        last: usize,
        /// The offset that was given.
        offset: usize,
        /// Rows of the keys.
        keys: usize,
    },

    /// A setting outside of its range.
    #[error("{name} is {given}, but it must be {needed}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// The value that was given.
        given: f64,
        /// What it must be.
        needed: &'static str,
    },

    /// A row weight that is negative or not finite.
    #[error("the weight of row {row} is {given}, but it must be a finite number of at least 0")]
    RowWeight {
        /// Which row.
        row: usize,
        /// Its weight.
        given: f64,
    },

    /// Negatives per query that do not divide among the queries.
    #[error("{negatives} negatives do not divide among {queries} queries")]
    PerQuery {
        /// Rows of the negatives.
        negatives: usize,
        /// Rows of the queries.
        queries: usize,
    },

    /// Settings, or a batch and a loss, that do not go together.
    #[error(transparent)]
    Conflict(#[from] Conflict),

    /// A NaN or an infinity.
    #[error("{matrix} hold {value} at row {row}, column {column}; every number must be finite")]
    NotFinite {
        /// Which matrix.
        matrix: &'static str,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The number found there.
        value: f64,
    },

    /// RINCE's exponentials leave the range of the type that is computed in.
    #[error(
        "e^(q s) leaves the range of {bits}-bit numbers, with q = {q} and logits at temperature \
         {temperature}; lower q or raise the temperature"
    )]
    Range {
        /// RINCE's q.
        q: f64,
        /// τ.
        temperature: f64,
        /// 32 or 64.
        bits: usize,
    },

    /// A buffer for a result has the wrong length.
    #[error(
        "the buffer for the gradient of the {matrix} holds {given} numbers, but {needed} are needed"
    )]
    Buffer {
        /// Which matrix.
        matrix: &'static str,
        /// Numbers it holds.
        given: usize,
        /// Numbers needed.
        needed: usize,
    },

    /// A count that must be at least one, or at most what the data allows.
    #[error("{what} is {given}, but it must lie between {least} and {most}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The value given.
        given: usize,
        /// The least allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },

    /// A preset that does not exist.
    #[error("there is no preset `{given}`; there are: {known}")]
    Preset {
        /// The name that was given.
        given: String,
        /// The names that exist.
        known: String,
    },
}
