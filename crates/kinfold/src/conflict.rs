//! Why settings, or a batch and a loss, do not go together. Every sentence is said here, once.

/// A combination that has no meaning, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// SupCon in a form other than NT-Xent's.
    #[error(
        "SupCon compares every row with every other, so it has one form: build it with \
         ContrastiveLoss::sup_con or from ContrastiveLoss::nt_xent"
    )]
    SupConForm,
    /// The sigmoid loss in NT-Xent's form.
    #[error("SigLIP is over pairs of a query and a key; NT-Xent's form has rows alone")]
    SigmoidForm,
    /// The sigmoid loss with label smoothing or a margin.
    #[error("label smoothing and margins belong to a softmax; SigLIP judges every pair on its own")]
    SigmoidSoftmax,
    /// Debiased or hard-negative weighting of raw dot products.
    #[error(
        "debiased and hard-negative weighting bound the negatives from below by exp(−1/τ), which \
         holds for the cosine alone"
    )]
    CorrectedDot,
    /// Label smoothing of a decoupled loss.
    #[error(
        "label smoothing spreads the target over the softmax's candidates, and decoupled losses \
         leave the positive out of them"
    )]
    SmoothingDecoupled,
    /// Label smoothing of a loss that is not one softmax over all candidates.
    #[error("label smoothing needs one softmax over all candidates, which this objective has not")]
    SmoothingObjective,
    /// No in-batch negatives in a form in which keys choose.
    #[error(
        "without in-batch negatives keys have nothing to choose among: that has a meaning one way \
         alone"
    )]
    InBatchForm,
    /// Pushing within views where that has no meaning.
    #[error(
        "pushing within views has a meaning for the plain loss one way with in-batch negatives; \
         NT-Xent does it already"
    )]
    WithinViewsForm,
    /// Pushing within views with an offset or label smoothing.
    #[error(
        "pushing within views has no meaning with an offset, which leaves some queries elsewhere, \
         nor with label smoothing"
    )]
    WithinViewsOffset,
    /// Pushing within views with negatives per query.
    #[error(
        "pushing within views has no meaning with negatives per query; give them as shared negatives"
    )]
    WithinViewsPerQuery,
    /// Two prefixes of one dimension.
    #[error("two prefixes have the same dimension; give it once, with the sum of their weights")]
    PrefixTwice,
    /// An offset in a form in which keys choose.
    #[error(
        "an offset has a meaning one way only: with some of the queries against all keys, the way \
         back lacks queries; call one way twice, queries → keys and keys → queries, each with its \
         offset"
    )]
    OffsetForm,
    /// No labels for a loss over labels.
    #[error("a loss over labels needs labels")]
    LabelsMissing,
    /// Labels for a loss that has no use for them.
    #[error(
        "labels have a meaning for the losses over labels alone; to leave known duplicates out, give \
         ids"
    )]
    LabelsUnused,
    /// Ids or a guide beside labels.
    #[error(
        "with labels, rows that belong together are positives; there is nothing for ids or a guide to \
         leave out"
    )]
    LabelsWithIds,
    /// Explicit negatives in a form in which keys choose, or for the sigmoid.
    #[error(
        "explicit negatives are negatives of queries, so they have a meaning where queries choose \
         among keys, one way, alone"
    )]
    NegativesForm,
    /// Neither in-batch nor explicit negatives.
    #[error("without the in-batch negatives there are only those that are given, and none were")]
    NegativesMissing,
    /// Row weights that are all 0.
    #[error("all row weights are 0, so there is nothing to average")]
    WeightsZero,
    /// A guide for a loss that has no use for it.
    #[error("a guide has a meaning for the plain loss one way with in-batch negatives alone")]
    GuideForm,
    /// A guide with an offset or with negatives per query.
    #[error(
        "a guide knows queries, keys and shared negatives; it has no meaning with an offset or with \
         negatives per query"
    )]
    GuideOffset,
    /// A guide with label smoothing.
    #[error(
        "label smoothing spreads the target over all candidates, and a guide says which of them are \
         not to be trusted"
    )]
    GuideSmoothing,
    /// Shared negatives that the guide lacks.
    #[error("with a guide and shared negatives, the guide's negatives are needed, too")]
    GuideNegativesMissing,
    /// Negatives of a guide without shared negatives.
    #[error("the guide has negatives, but there are no shared negatives for it to judge")]
    GuideNegativesUnused,
}
