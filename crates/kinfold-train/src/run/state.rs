//! What the parts of a run have to remember between two sittings: tensors by name.
//!
//! Input: parts that put what they hold. Output: the same, to the last bit, for parts that were
//! built anew from the same settings. Where it is kept is another's business.

use crate::Error;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Element, Tensor, TensorData};
use std::collections::BTreeMap;

/// Tensors by name; a part's names begin with the part's own.
#[derive(Debug, Default)]
pub(crate) struct State(BTreeMap<String, TensorData>);

impl State {
    /// Every tensor, in the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &TensorData)> {
        self.0.iter()
    }

    pub(crate) fn put(&mut self, name: impl Into<String>, data: TensorData) {
        self.0.insert(name.into(), data);
    }

    pub(crate) fn put_numbers<E: Element>(&mut self, name: &str, numbers: Vec<E>) {
        let n = numbers.len();
        self.put(name, TensorData::new(numbers, [n]));
    }

    /// Everything that a part names itself, under the part's name.
    pub(crate) fn put_all(&mut self, part: &str, all: Vec<(String, TensorData)>) {
        self.0.extend(all.into_iter().map(|(name, data)| (format!("{part}.{name}"), data)));
    }

    /// A module's weights and running statistics, by their paths in it.
    pub(crate) fn put_module(&mut self, part: &str, module: &impl Module) {
        let mut all = Collect { path: Vec::new(), all: Vec::new() };
        module.visit(&mut all);
        self.put_all(part, all.all);
    }

    pub(crate) fn take(&mut self, name: &str) -> Result<TensorData, Error> {
        self.0.remove(name).ok_or_else(|| missing(name))
    }

    pub(crate) fn take_numbers<E: Element>(&mut self, name: &str) -> Result<Vec<E>, Error> {
        self.take(name)?.try_into_vec().map_err(|e| Error::Data(format!("{name}: {e:?}")))
    }

    /// Everything under a part's name, by the names it gave.
    pub(crate) fn take_all(&mut self, part: &str) -> Vec<(String, TensorData)> {
        let of_part =
            |name: &String| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        let names: Vec<String> = self.0.keys().filter(|name| of_part(name)).cloned().collect();
        let take = |name: String| Some((name[part.len() + 1..].to_owned(), self.0.remove(&name)?));
        names.into_iter().filter_map(take).collect()
    }

    /// The module with the weights and statistics that were put.
    pub(crate) fn take_module<M: Module>(&mut self, part: &str, module: M) -> Result<M, Error> {
        let all = self.take_all(part).into_iter().collect();
        let mut restore = Restore { path: Vec::new(), all, wrong: None };
        let module = module.map(&mut restore);
        match restore.wrong {
            Some(wrong) => Err(Error::Data(format!("{part}: {wrong}"))),
            None => Ok(module),
        }
    }
}

/// The first of a module's weights and statistics that holds a number that is not finite.
pub(crate) fn not_finite(module: &impl Module) -> Option<String> {
    let mut all = Collect { path: Vec::new(), all: Vec::new() };
    module.visit(&mut all);
    let finite = |data: &TensorData| data.iter::<f32>().all(f32::is_finite);
    all.all.into_iter().find(|(_, data)| !finite(data)).map(|(name, _)| name)
}

/// The checksum of a module's trained weights, which differs where one bit does.
pub(crate) fn checksum(module: &impl Module) -> u32 {
    struct Checksum(u32);
    impl ModuleVisitor for Checksum {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0 = crc32c::crc32c_append(self.0, param.val().into_data().as_bytes());
            }
        }
    }
    let mut sum = Checksum(0);
    module.visit(&mut sum);
    sum.0
}

fn missing(name: &str) -> Error {
    Error::Data(format!("it has no {name}"))
}

struct Collect {
    path: Vec<String>,
    all: Vec<(String, TensorData)>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.all.push((self.path.join("."), param.val().into_data()));
    }
}

struct Restore {
    path: Vec<String>,
    all: BTreeMap<String, TensorData>,
    wrong: Option<String>,
}

impl ModuleMapper for Restore {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(data) = self.all.remove(&name) else {
            self.wrong = Some(format!("it has no {name}"));
            return param;
        };
        if *data.shape() != param.val().shape() {
            let (given, needed) = (data.shape(), param.val().shape());
            self.wrong = Some(format!("{name} is {given:?}, but the model's is {needed:?}"));
            return param;
        }
        param.map(|x| Tensor::from_data(data, &x.device()).set_require_grad(x.is_require_grad()))
    }
}
