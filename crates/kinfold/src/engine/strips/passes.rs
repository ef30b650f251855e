//! From a problem to its outcomes: first with one shift for all exponentials and, where that turns out
//! not to be safe, once more with a shift for each row.

use super::packed_problem::PackedProblem;
use super::strip::{CommonShift, Extent, Gradients, Outcomes};
use crate::embeddings::Element;
use crate::engine::candidates::groups::Groups;
use crate::engine::candidates::sides::{Problem, Side};
use crate::engine::kernels::Arithmetic;
use crate::engine::problem::{Region, Shape, computed_form};
use crate::engine::terms::rule::RowRule;
use crate::engine::threads::Team;
use crate::loss::{ContrastiveLoss, Form};

/// One problem, and how to compute it.
pub(crate) struct Passes<'p, T: Element> {
    pub(crate) loss: &'p ContrastiveLoss,
    pub(crate) team: &'p Team,
    pub(crate) rule: &'p RowRule<'p>,
    pub(crate) problem: Problem<'p, T>,
    pub(crate) columns: Side<'p, T>,
}

impl<T: Element> Passes<'_, T> {
    /// The outcomes of rows and, both ways, of columns. Gradients are added.
    pub(crate) fn run(&self, gradients: Gradients<'_, '_, T::Real>) -> Outcomes {
        let per_query = self.problem.per_query.map_or(0.0, |negatives| negatives.rows.longest());
        let (rows, columns) = (Extent::of(self.problem.rows.rows), Extent::of(self.columns.rows));
        let columns = Extent { longest: columns.longest.max(per_query), ..columns };
        let [power, _] = self.rule.terms().powers();
        let common = CommonShift::new::<T::Real>(self.rule.scale, rows, columns, power);
        let packed = self.packed(self.problem, self.columns, !gradients.is_empty());
        let outcomes = match computed_form(self.loss) {
            Form::BothWays | Form::NtXent if !self.loss.execution.skips_unweighted => {
                packed.both_ways(common, self.loss.execution.memory_budget, gradients)
            }
            form => packed.one_way(common, gradients).and_then(|outcomes| match form {
                Form::BothWays => self.way_back(outcomes, common, gradients),
                Form::OneWay | Form::NtXent => Some(outcomes),
            }),
        };
        drop(packed);
        outcomes.unwrap_or_else(|| {
            gradients.iter_mut().for_each(|row| row.fill(T::Real::default()));
            self.run_safely(gradients)
        })
    }

    /// Columns choose among rows, after rows have among columns.
    fn way_back(
        &self,
        outcomes: Outcomes,
        common: CommonShift,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Option<Outcomes> {
        let gradient = !gradients.is_empty();
        let back = |packed: PackedProblem<'_, T>| packed.one_way(common, gradients);
        let columns = self.swapped(self.problem, gradient, back)?.rows;
        Some(Outcomes { columns, ..outcomes })
    }

    /// What `compute` makes of a problem whose columns choose among its rows.
    fn swapped<R>(
        &self,
        problem: Problem<'_, T>,
        gradient: bool,
        compute: impl FnOnce(PackedProblem<'_, T>) -> R,
    ) -> R {
        let groups = problem.groups.map(Groups::swapped);
        let back = problem.swapped(groups.as_ref());
        compute(self.packed(back, problem.rows, gradient))
    }

    /// Every row with its own shift, one way at a time.
    fn run_safely(&self, gradients: Gradients<'_, '_, T::Real>) -> Outcomes {
        let Problem { shape, .. } = self.problem;
        let region = match shape.region {
            Region::Triangle { partner } => Region::Square { partner },
            other => other,
        };
        let shape = Shape { region, whole_strips: true, ..shape };
        let problem = Problem { shape, ..self.problem };
        let gradient = !gradients.is_empty();
        let mut outcomes = self.packed(problem, self.columns, gradient).one_way_safely(gradients);
        if computed_form(self.loss) == Form::BothWays {
            let back = |packed: PackedProblem<'_, T>| packed.one_way_safely(gradients);
            outcomes.columns = self.swapped(problem, gradient, back).rows;
        }
        outcomes
    }

    fn packed<'q>(
        &'q self,
        problem: Problem<'q, T>,
        columns: Side<'q, T>,
        gradient: bool,
    ) -> PackedProblem<'q, T> {
        let kernels = T::Real::kernels(self.loss.execution.instructions);
        PackedProblem::new(problem, columns, self.rule, kernels, gradient, self.team)
    }
}
