//! Which CPUs a server runs on: what a person says, and what that means for a process that may not run on all.

use std::str::FromStr;

pub(super) const MUST_CORES: &str =
    "must be a count (2), a list of CPUs (\"0,1\"; of one CPU: \"0,\" or [0]), a range \"0-3\" or \"all\"";

/// Which CPUs to run on, as a person says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// All that this process may run on.
    #[default]
    All,
    /// The first so many of these.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

impl FromStr for CoreChoice {
    type Err = String;

    /// `all` · `2`: a count · `0,1`, `0,`, `[0]`, `0-3`, `0-1,4`: a list.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let must = || MUST_CORES.to_owned();
        if text == "all" {
            return Ok(CoreChoice::All);
        }
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if bracketed.is_none() && !text.contains([',', '-']) {
            return text.parse().map(CoreChoice::Count).map_err(|_| must());
        }
        let list = bracketed.unwrap_or(text).trim();
        let mut cpus = Vec::new();
        for part in list.strip_suffix(',').unwrap_or(list).split(',') {
            cpus.extend(cpu_range(part).ok_or_else(must)?);
        }
        Ok(CoreChoice::List(cpus))
    }
}

/// `3` or `0-3`. A number that no kernel gives a CPU is refused, so that a slip does not make a list of millions.
fn cpu_range(part: &str) -> Option<std::ops::RangeInclusive<usize>> {
    const CPUS_MAX: usize = 8_192;
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last && last < CPUS_MAX).then_some(first..=last)
}

impl CoreChoice {
    /// The CPUs that this choice means for a process that may run on `allowed`.
    pub(super) fn resolve(&self, allowed: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            CoreChoice::All => Ok(allowed.to_vec()),
            CoreChoice::Count(0) => Err("must be at least 1".to_owned()),
            CoreChoice::Count(count) => allowed.get(..*count).map(<[usize]>::to_vec).ok_or_else(|| {
                format!("asks for {count} CPUs, and this process may run on {}: {allowed:?}", allowed.len())
            }),
            CoreChoice::List(list) => check_list(list, allowed).map(|()| list.clone()),
        }
    }
}

/// An executor owns its CPU, so none may be named twice.
fn check_list(list: &[usize], allowed: &[usize]) -> Result<(), String> {
    if list.is_empty() {
        return Err("names no CPU".to_owned());
    }
    for (index, cpu) in list.iter().enumerate() {
        if list[..index].contains(cpu) {
            return Err(format!("names CPU {cpu} twice"));
        }
        if !allowed.contains(cpu) {
            return Err(format!(
                "names CPU {cpu}, and this process may run only on {allowed:?}, by taskset, cpuset or what is online"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_a_count_or_a_list() {
        let list = |cpus: &[usize]| Ok(CoreChoice::List(cpus.to_vec()));
        assert_eq!("all".parse(), Ok(CoreChoice::All));
        assert_eq!("2".parse(), Ok(CoreChoice::Count(2)));
        assert_eq!("0,1".parse(), list(&[0, 1]));
        assert_eq!(" 0, 1 ".parse(), list(&[0, 1]));
        assert_eq!("0,".parse(), list(&[0]));
        assert_eq!("[0]".parse(), list(&[0]));
        assert_eq!("[0, 1,]".parse(), list(&[0, 1]));
        assert_eq!("0-2,5".parse(), list(&[0, 1, 2, 5]));
        for text in ["", "two", ",", "0,,1", "[0", "[]", "3-1", "-1", "0-99999999999", "1 2"] {
            assert_eq!(text.parse::<CoreChoice>(), Err(MUST_CORES.to_owned()), "{text:?}");
        }
    }
}
