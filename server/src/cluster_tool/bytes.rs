//! Sizes, as people write and read them.

/// The units, the largest first.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A size as a flag says it: bytes, or a number and a unit.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let must = || "it must be a number of bytes, or a number and a unit: 268435456, 256MiB or 1GiB".to_owned();
    let (number, unit) = match UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes))) {
        Some((number, bytes)) => (number.trim_end(), bytes),
        None => (text, 1),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(must)
}

/// A size for people: three figures at most.
pub(super) fn shown(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        None => format!("{bytes} B"),
        Some((name, unit)) => {
            let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
            if whole < 10 && tenth > 0 { format!("{whole}.{tenth} {name}") } else { format!("{whole} {name}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_its_unit_or_without_and_shown_short() {
        assert_eq!(parse("268435456"), Ok(256 << 20));
        assert_eq!((parse("256MiB"), parse("1 GiB"), parse("2TiB")), (Ok(256 << 20), Ok(1 << 30), Ok(2 << 40)));
        for text in ["", "MiB", "1GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse(text).unwrap_err().contains("256MiB"), "{text}");
        }
        let shown = [0, 1023, 1 << 10, 3 << 19, 256 << 20, 11 << 29].map(shown);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.5 MiB", "256 MiB", "5.5 GiB"]);
    }
}
