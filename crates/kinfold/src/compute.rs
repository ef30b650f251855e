//! What a loss computes: values, gradients, and the memory that takes.
//!
//! Input: a [`ContrastiveLoss`] and a [`Batch`]. Both are checked here; behind that the engine
//! computes and cannot fail. Output: numbers, and gradients with respect to every matrix, to log(1/τ)
//! and to the bias.

use crate::embeddings::{Element, Embeddings};
use crate::engine;
use crate::error::Error;
use crate::loss::{
    Batch, ContrastiveLoss, Form, GradientMut, Objective, ParameterGradient, Value,
    ValueAndGradient,
};

impl ContrastiveLoss {
    /// The value when everything has collapsed into one point, given `pairs` pairs and nothing else
    /// (for the losses over labels, pairs that share theirs with nobody); for a softmax the logarithm
    /// of the number of candidates, which is also what nothing learned gives. In nats.
    pub fn ceiling(&self, pairs: usize) -> f64 {
        let weights = self.matryoshka().iter().map(|prefix| prefix.weight).sum();
        let weight = if self.matryoshka().is_empty() { 1.0 } else { weights };
        self.factor * weight * engine::collapsed(self, pairs)
    }

    /// The loss alone. A batch is a pair `(queries, keys)`, each `[n, d]` (keys `[m, d]` with an
    /// [`offset`](Self::with_offset)), or a [`Batch`] with negatives, ids, labels, weights or a guide.
    ///
    /// # Errors
    /// When shapes disagree with each other or with the loss, a matrix is empty, a number is not finite,
    /// or RINCE's exponentials leave the range of the type ([`Error::Range`]).
    pub fn value<'a, T: Element>(&self, batch: impl Into<Batch<'a, T>>) -> Result<Value, Error> {
        let batch = batch.into();
        let shape = batch.checked(self)?;
        let (value, _) = engine::run(self, &batch, &shape, None);
        self.in_range::<T>(&value)?;
        Ok(value)
    }

    /// The loss and all its gradients, in memory allocated here.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    pub fn value_and_gradient<'a, T: Element>(
        &self,
        batch: impl Into<Batch<'a, T>>,
    ) -> Result<ValueAndGradient<T::Real>, Error> {
        let batch = batch.into();
        let zeros = |x: Option<&Embeddings<'_, T>>| {
            vec![T::Real::default(); x.map_or(0, |x| x.rows() * x.dim())]
        };
        let mut queries = zeros(Some(&batch.queries));
        let mut keys = zeros(batch.keys.as_ref());
        let mut negatives = zeros(batch.negatives.given().as_ref());
        let gradient = GradientMut::new(&mut queries, &mut keys).with_negatives(&mut negatives);
        let (value, parameters) = self.value_and_gradient_into(batch, gradient)?;
        let Value { mean, sum, rows, statistics } = value;
        let ParameterGradient { log_scale, bias } = parameters;
        Ok(ValueAndGradient {
            mean,
            sum,
            rows,
            log_scale,
            bias,
            queries,
            keys,
            negatives,
            statistics,
        })
    }

    /// The loss and all its gradients, those of the matrices in the caller's memory; what was there
    /// is overwritten.
    ///
    /// # Errors
    /// As [`value`](Self::value), and [`Error::Buffer`] when a buffer has another length than what it
    /// is for; the one for negatives may be empty.
    pub fn value_and_gradient_into<'a, T: Element>(
        &self,
        batch: impl Into<Batch<'a, T>>,
        gradient: GradientMut<'_, T::Real>,
    ) -> Result<(Value, ParameterGradient), Error> {
        let batch = batch.into();
        let shape = batch.checked(self)?;
        let numbers = |x: &Embeddings<'_, T>| x.rows() * x.dim();
        let negatives = batch.negatives.given().as_ref().map_or(0, numbers);
        let constant_keys = self.may_have_constant_keys() && batch.negatives.given().is_none();
        for (matrix, needed, given, may_be_empty) in [
            ("queries", numbers(&batch.queries), gradient.queries.len(), false),
            ("keys", batch.keys.as_ref().map_or(0, numbers), gradient.keys.len(), constant_keys),
            ("negatives", negatives, gradient.negatives.len(), true),
        ] {
            if given != needed && !(may_be_empty && given == 0) {
                return Err(Error::Buffer { matrix, given, needed });
            }
        }
        let (value, parameters) = engine::run(self, &batch, &shape, Some(gradient));
        self.in_range::<T>(&value)?;
        Ok((value, parameters))
    }

    /// Whether keys may have no gradient where there are no explicit negatives: one way, over all of the
    /// embedding, and not within views, where keys are candidates of each other. Elsewhere
    /// [`GradientMut::keys`] is needed.
    pub fn may_have_constant_keys(&self) -> bool {
        let whole = self.matryoshka().is_empty();
        self.form() == Form::OneWay && self.in_batch && !self.within_views && whole
    }

    /// Every loss is finite, as all are but for RINCE's.
    fn in_range<T: Element>(&self, value: &Value) -> Result<(), Error> {
        match self.objective() {
            Objective::Rince { q, .. } if !value.rows.iter().all(|row| row.is_finite()) => {
                let (temperature, bits) = (self.temperature().get(), 8 * size_of::<T::Real>());
                Err(Error::Range { q, temperature, bits })
            }
            _ => Ok(()),
        }
    }

    /// Bytes that one call needs beyond its inputs and outputs, for `queries` and `keys` rows of
    /// dimension `dim` computed in `T`; shared negatives count as keys. A guide needs up to four
    /// numbers more for each of its own, and for each of a strip's rows.
    pub fn scratch_bytes<T: Element>(&self, queries: usize, keys: usize, dim: usize) -> usize {
        engine::scratch_bytes::<T>(self, queries, keys, dim)
    }
}
