//! Pages of the log's files that were read lately, so that a crowd which comes back reads a page once and not once each.
//!
//! Invariant: what is in here was read from the file as it lies on the disk; a file of the log is only appended to, or
//! replaced as a whole, and then forgotten here.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::PAGE_BYTES;
use crate::reading::LogFile;

type PageKey = (u64, LogFile, u64);

/// The pages, the least recently used going first above so many bytes.
#[derive(Debug)]
pub struct PageCache {
    pages: BTreeMap<PageKey, CachedPage>,
    order: BTreeMap<u64, PageKey>,
    uses: u64,
    pages_max: usize,
}

#[derive(Debug)]
struct CachedPage {
    bytes: Box<[u8]>,
    used: u64,
}

impl PageCache {
    /// One that holds so many bytes at most.
    pub fn new(bytes_max: u64) -> Self {
        let pages_max = (bytes_max / PAGE_BYTES as u64) as usize;
        PageCache { pages: BTreeMap::new(), order: BTreeMap::new(), uses: 0, pages_max }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Those bytes of a file, if all of them are here, or all up to the file's end.
    pub fn read(&mut self, segment: u64, file: LogFile, range: Range<u64>) -> Option<Vec<u8>> {
        let first = range.start / PAGE_BYTES as u64;
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        for number in first..range.end.div_ceil(PAGE_BYTES as u64) {
            let page = self.page((segment, file, number))?;
            let start = number * PAGE_BYTES as u64;
            let from = range.start.saturating_sub(start) as usize;
            let to = ((range.end - start) as usize).min(page.len());
            bytes.extend_from_slice(page.get(from..to).unwrap_or(&[]));
            if page.len() < PAGE_BYTES {
                break;
            }
        }
        Some(bytes)
    }

    fn page(&mut self, key: PageKey) -> Option<&[u8]> {
        let page = self.pages.get_mut(&key)?;
        self.uses += 1;
        self.order.remove(&page.used);
        self.order.insert(self.uses, key);
        page.used = self.uses;
        Some(&page.bytes)
    }

    /// Keeps what was read from the start of a page on.
    pub fn keep(&mut self, segment: u64, file: LogFile, offset: u64, bytes: &[u8]) {
        let first = offset / PAGE_BYTES as u64;
        for (ahead, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            self.insert((segment, file, first + ahead as u64), page);
        }
        while self.pages.len() > self.pages_max
            && let Some((_, key)) = self.order.pop_first()
        {
            self.pages.remove(&key);
        }
    }

    fn insert(&mut self, key: PageKey, bytes: &[u8]) {
        self.uses += 1;
        let page = CachedPage { bytes: bytes.into(), used: self.uses };
        if let Some(before) = self.pages.insert(key, page) {
            self.order.remove(&before.used);
        }
        self.order.insert(self.uses, key);
    }

    /// A file is gone, or another one lies in its place.
    pub fn forget(&mut self, segment: u64, file: LogFile) {
        let of_file = (segment, file, 0)..=(segment, file, u64::MAX);
        for (_, page) in self.pages.extract_if(of_file, |_, _| true) {
            self.order.remove(&page.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    fn file(pages: u8) -> Vec<u8> {
        (0..pages).flat_map(|number| vec![number; PAGE_BYTES]).collect()
    }

    #[test]
    fn any_bytes_of_pages_that_are_here_are_read_and_none_of_others() {
        let mut cache = PageCache::new(16 * PAGE);
        let bytes = file(4);
        cache.keep(7, LogFile::Segment, PAGE, &bytes[PAGE_BYTES..3 * PAGE_BYTES]);
        for range in [PAGE..3 * PAGE, PAGE + 5..PAGE + 9, 2 * PAGE - 3..2 * PAGE + 3] {
            let wanted = &bytes[range.start as usize..range.end as usize];
            assert_eq!(cache.read(7, LogFile::Segment, range).as_deref(), Some(wanted));
        }
        assert_eq!(cache.read(7, LogFile::Segment, 0..PAGE), None);
        assert_eq!(cache.read(7, LogFile::Segment, 3 * PAGE - 1..3 * PAGE + 1), None);
        assert_eq!(cache.read(7, LogFile::Index, PAGE..PAGE + 1), None);
        assert_eq!(cache.read(8, LogFile::Segment, PAGE..PAGE + 1), None);
    }

    #[test]
    fn a_file_ends_where_it_ends() {
        let mut cache = PageCache::new(16 * PAGE);
        cache.keep(7, LogFile::Index, 0, &file(2)[..PAGE_BYTES + 10]);
        assert_eq!(cache.read(7, LogFile::Index, PAGE - 1..PAGE + 99).map(|bytes| bytes.len()), Some(11));
        assert_eq!(cache.read(7, LogFile::Index, PAGE + 50..PAGE + 99).map(|bytes| bytes.len()), Some(0));
    }

    #[test]
    fn what_was_not_used_the_longest_goes_first_and_a_file_goes_whole() {
        let mut cache = PageCache::new(3 * PAGE);
        cache.keep(1, LogFile::Segment, 0, &file(3));
        assert!(cache.read(1, LogFile::Segment, 0..1).is_some());
        cache.keep(2, LogFile::Segment, 0, &file(1));
        assert_eq!(cache.read(1, LogFile::Segment, PAGE..PAGE + 1), None, "the page that was used the longest ago");
        assert!(cache.read(1, LogFile::Segment, 0..1).is_some() && cache.bytes() == 3 * PAGE);
        cache.forget(1, LogFile::Segment);
        assert_eq!((cache.bytes(), cache.order.len()), (PAGE, 1));
        let mut none = PageCache::new(0);
        none.keep(1, LogFile::Segment, 0, &file(3));
        assert_eq!((none.bytes(), none.order.len()), (0, 0));
    }
}
