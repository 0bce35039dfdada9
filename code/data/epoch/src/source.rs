//! The log of a source that others push rows to: an inbox of segments, and entries that say which rows count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use buzz_protocol::{ErrorKind, QueryError, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::clock::{Clock, Ids};
use crate::names;
use crate::object::{self, Created, READS_AT_ONCE};
use crate::record::{check_number, decode};
use crate::rules::Rules;
use crate::seal::{ENTRY_SEGMENTS_MAX, Entry, Found, Index, Sealed, Times};
use crate::search::Search;
use crate::segment::{self, HEADER_READ_BYTES, Segment};
use crate::trim::{RETENTION, Starts};

/// Entries that are read at once if all are.
const ENTRIES_AT_ONCE: usize = 64;

/// Number of lost races after which sealing leaves the work to the processes that win.
const RACES_MAX: usize = 16;

/// The definition of a source, created once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// The statement that declares the source.
    pub ddl: String,
    /// The format of the rows.
    pub format: String,
    /// Times that decide about repetitions.
    pub times: Times,
    /// The columns that the statement declares, if any.
    #[serde(default)]
    pub columns: Vec<SourceColumn>,
    /// The options that the statement sets.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A column that the declaration of a source names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceColumn {
    /// Its name.
    pub name: String,
    /// Its type, as Arrow writes it, such as `Timestamp(ns)`.
    #[serde(rename = "type")]
    pub data_type: String,
    /// It has no NULL.
    #[serde(default)]
    pub required: bool,
}

/// Maximum number of folders of the inbox that are listed by the names that they should have.
const NAMED_PARTS_MAX: usize = 4;

/// Returns the names of the sources below `root`, sorted.
///
/// # Errors
/// The error of the store.
pub async fn source_names(store: &Arc<dyn ObjectStore>, root: &Path) -> Result<Vec<String>> {
    let listed = store.list_with_delimiter(Some(&names::sources_folder(root))).await?;
    let folders = listed.common_prefixes.iter().filter_map(|path| path.filename());
    let mut found: Vec<String> =
        folders.filter(|name| names::check("source", name).is_ok()).map(String::from).collect();
    found.sort();
    Ok(found)
}

/// The log of one source. Clones share what they know about it.
#[derive(Debug, Clone)]
pub struct SourceLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    spec: SourceSpec,
    ids: Ids,
    rules: Rules,
    segments_max: usize,
    /// The beginnings of the log, if it may be trimmed.
    starts: Option<Starts>,
    /// `None` until the log was read.
    index: Mutex<Option<Index>>,
    /// The time of the newest entry that is known. No segment is named after an earlier one: sealing may have passed it, if
    /// the clock was set back.
    newest_ms: AtomicI64,
}

impl SourceLog {
    /// Opens `source` below `root`, and creates it if it does not exist. An existing source keeps its times.
    ///
    /// # Errors
    /// `Invalid` if the name is wrong, or if the source exists with another declaration or format.
    pub async fn open(store: Arc<dyn ObjectStore>, root: Path, source: &str, spec: &SourceSpec) -> Result<SourceLog> {
        Self::open_with(store, root, source, spec, Ids::random(), Rules::default(), ENTRY_SEGMENTS_MAX).await
    }

    /// Opens `source` below `root`; `None` if it does not exist.
    ///
    /// # Errors
    /// `Invalid` if the name is wrong, `Data` if its definition is damaged.
    pub async fn existing(store: Arc<dyn ObjectStore>, root: Path, source: &str) -> Result<Option<SourceLog>> {
        names::check("source", source)?;
        let folder = names::source_folder(&root, source);
        let path = folder.clone().join("source.json");
        let Some(bytes) = object::read(&store, &path).await? else { return Ok(None) };
        let spec = decode(&path, &bytes)?;
        let (ids, rules, segments_max) = (Ids::random(), Rules::default(), ENTRY_SEGMENTS_MAX);
        Ok(Some(Self::of(store, folder, spec, (ids, rules, segments_max))))
    }

    pub(crate) async fn open_with(
        store: Arc<dyn ObjectStore>,
        root: Path,
        source: &str,
        spec: &SourceSpec,
        ids: Ids,
        rules: Rules,
        segments_max: usize,
    ) -> Result<SourceLog> {
        names::check("source", source)?;
        let folder = names::source_folder(&root, source);
        let path = folder.clone().join("source.json");
        let bytes = serde_json::to_vec_pretty(spec)
            .map_err(|error| QueryError::internal(format!("the source cannot be encoded: {error}")))?;
        let spec = match object::create(&store, &path, bytes.into(), Rules::default()).await? {
            Created::Mine => spec.clone(),
            Created::Theirs(bytes) => {
                let stored: SourceSpec = decode(&path, &bytes)?;
                if (&stored.ddl, &stored.format) != (&spec.ddl, &spec.format) {
                    return Err(QueryError::invalid(format!(
                        "source `{source}` exists with another declaration: `{}` in format `{}`; use that one or \
                         another name",
                        stored.ddl, stored.format
                    )));
                }
                stored
            }
        };
        Ok(Self::of(store, folder, spec, (ids, rules, segments_max)))
    }

    fn of(
        store: Arc<dyn ObjectStore>,
        folder: Path,
        spec: SourceSpec,
        (ids, rules, segments_max): (Ids, Rules, usize),
    ) -> Self {
        let starts = spec.options.contains_key(RETENTION).then(|| Starts::new(Arc::clone(&store), &folder));
        let (index, newest_ms) = (Mutex::new(None), AtomicI64::new(i64::MIN));
        Self { shared: Arc::new(Shared { store, folder, spec, ids, rules, segments_max, starts, index, newest_ms }) }
    }

    pub(crate) fn starts(&self) -> Option<&Starts> {
        self.shared.starts.as_ref()
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.shared.store
    }

    pub(crate) fn rules(&self) -> Rules {
        self.shared.rules
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Returns a text that no other process makes.
    pub(crate) fn unique(&self) -> String {
        self.shared.ids.next().to_string()
    }

    /// Returns the definition of the source.
    pub fn spec(&self) -> &SourceSpec {
        &self.shared.spec
    }

    /// Writes `segment` to the inbox and returns its name. Its rows will be sealed: acknowledge the requests now.
    ///
    /// # Errors
    /// `Limit` if the segment exceeds a bound; `Unavailable` if the write took longer than `append_ms_max`, since
    /// sealing may already have passed its name. After any error but `Limit`, the rows may be sealed nevertheless:
    /// repeat the requests with the same idempotency keys.
    pub async fn append(&self, segment: &Segment, clock: &dyn Clock) -> Result<String> {
        let started = clock.now_ms();
        let named_ms = started.max(self.shared.newest_ms.load(Ordering::SeqCst));
        let name = self.shared.ids.next_at(named_ms).to_string();
        let bytes = segment.encode(&name)?;
        self.shared.store.put(&self.segment_path(&name), bytes.into()).await?;
        let took = clock.now_ms() - started;
        let max = self.shared.spec.times.append_ms_max;
        if !(0..=max).contains(&took) {
            return Err(QueryError::unavailable(format!(
                "writing a segment took {took} ms, and at most {max} are allowed; repeat the request with the same \
                 idempotency key"
            )));
        }
        Ok(name)
    }

    /// Enters the segments of the inbox into the log that it does not name yet, oldest first and up to the bounds
    /// [`ENTRY_SEGMENTS_MAX`] and [`ENTRY_PARTS_MAX`](crate::ENTRY_PARTS_MAX). Returns the new entry; `None` if there
    /// is nothing to seal or other processes sealed it.
    ///
    /// # Errors
    /// The error of the store; `Data` if an object of the inbox is damaged. The entry may exist nevertheless: repeat.
    pub async fn seal(&self, clock: &dyn Clock) -> Result<Option<Entry>> {
        Ok(self.seal_some(clock).await?.map(|(entry, _)| entry))
    }

    /// Enters all segments into the log that were in the inbox before the call. It does not wait for those that come meanwhile,
    /// which may be without end.
    ///
    /// # Errors
    /// As [`SourceLog::seal`].
    pub async fn seal_all(&self, clock: &dyn Clock) -> Result<()> {
        while let Some((_, true)) = self.seal_some(clock).await? {}
        Ok(())
    }

    /// Creates the next entry. Returns it, and true if segments of the same listing must wait for the one after it.
    async fn seal_some(&self, clock: &dyn Clock) -> Result<Option<(Entry, bool)>> {
        let Shared { store, spec, ids, rules, segments_max, .. } = &*self.shared;
        let mut known = self.shared.index.lock().await;
        for _ in 0..RACES_MAX {
            let index = self.catch_up(&mut known).await?;
            let at_ms = index.next_at_ms(clock.now_ms());
            let listed = self.listed(index.scan_from(), at_ms.saturating_add(spec.times.clock_skew_ms_max)).await?;
            let (selected, rest_ms) = index.select(listed, *segments_max);
            if selected.is_empty() {
                return Ok(None);
            }
            if !index.has_keys() {
                // Most callers find nothing to seal, and do not need the keys of a day.
                *index = self.load(true).await?;
                continue;
            }
            let (count, waits) = (selected.len(), rest_ms.is_some());
            let reads: Vec<_> = selected.into_iter().map(|name| self.header(name)).collect();
            let found: Vec<Found> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
            let by = ids.next().to_string();
            let Some(entry) = index.next(by, at_ms, found, rest_ms, spec.times, *rules) else { return Ok(None) };
            let bytes = serde_json::to_vec(&entry)
                .map_err(|error| QueryError::internal(format!("an entry cannot be encoded: {error}")))?;
            if let Created::Mine = object::create(store, &self.entry_path(entry.n), bytes.into(), *rules).await? {
                if rules.looks_at_the_start() && self.first().await? > entry.n {
                    // The number was free because the log was trimmed meanwhile.
                    object::delete(store, vec![self.entry_path(entry.n)]).await?;
                    *known = None;
                    continue;
                }
                index.apply(&entry, spec.times);
                self.shared.newest_ms.fetch_max(entry.at_ms, Ordering::SeqCst);
                let waits = waits || entry.segments.len() < count;
                return Ok(Some((entry, waits)));
            }
        }
        Ok(None)
    }

    /// Lists the segments of the inbox, in the order of their names. `scan_from` is the time of the first ones and a name
    /// before them; no clock is beyond `until_ms`.
    async fn listed(&self, scan_from: Option<(i64, String)>, until_ms: i64) -> Result<Vec<String>> {
        let (store, inbox) = (&self.shared.store, self.inbox());
        let parts: Vec<String> = match &scan_from {
            Some((from_ms, _)) if names::inbox_parts(*from_ms, until_ms).len() <= NAMED_PARTS_MAX => {
                names::inbox_parts(*from_ms, until_ms).collect()
            }
            _ => {
                let listed = store.list_with_delimiter(Some(&inbox)).await?;
                let first = scan_from.as_ref().map(|(_, name)| names::inbox_part(name));
                let parts = listed.common_prefixes.iter().filter_map(|path| path.filename());
                let mut parts: Vec<String> =
                    parts.filter(|part| first.is_none_or(|first| *part >= first)).map(String::from).collect();
                parts.sort();
                parts
            }
        };
        let mut segments = Vec::new();
        for part in parts {
            let folder = inbox.clone().join(part);
            let after = scan_from.as_ref().map(|(_, name)| folder.clone().join(name.as_str()));
            let listed = object::list(store, &folder, after.as_ref()).await?;
            segments.extend(listed.iter().filter_map(|path| path.filename().map(String::from)));
        }
        Ok(segments)
    }

    /// Returns the newest entry; `None` if nothing was sealed yet.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn newest(&self) -> Result<Option<Entry>> {
        // While another call loads or seals, the search begins at the first entry instead of waiting.
        let known = self.shared.index.try_lock().ok().and_then(|index| Some(index.as_ref()?.head)).unwrap_or_default();
        let newest = loop {
            let (head, first) = self.extent(known).await?;
            let newest = self.read_entry(head).await?;
            if self.first().await? == first {
                break newest;
            }
        };
        if let Some(entry) = &newest {
            self.shared.newest_ms.fetch_max(entry.at_ms, Ordering::SeqCst);
        }
        Ok(newest)
    }

    /// Returns the number of the newest entry that is at least `known`, which must be 0 or exist, or have existed.
    pub async fn head(&self, known: u64) -> Result<u64> {
        Ok(self.extent(known).await?.0)
    }

    /// Returns the numbers of the newest entry, which may be the one before the first, and of the first one.
    async fn extent(&self, known: u64) -> Result<(u64, u64)> {
        let mut first = self.first().await?;
        loop {
            let mut search = Search::above(known.max(first - 1));
            while let Some(n) = search.probe() {
                search.answer(n, object::exists(&self.shared.store, &self.entry_path(n)).await?);
            }
            // Entries that are missing may have been removed during the search.
            let now = self.first().await?;
            if now == first {
                return Ok((search.newest(), first));
            }
            first = now;
        }
    }

    /// Returns all entries that count, in ascending order.
    ///
    /// # Errors
    /// The error of the store; `Data` if one is missing.
    pub async fn entries(&self) -> Result<Vec<Entry>> {
        loop {
            let (head, first) = self.extent(0).await?;
            let reads = stream::iter((first..=head).map(|n| async move { (n, self.read_entry(n).await) }));
            let read: Vec<(u64, Result<Option<Entry>>)> = reads.buffered(ENTRIES_AT_ONCE).collect().await;
            if self.first().await? != first {
                continue;
            }
            let missing = |n: u64| {
                QueryError::data(format!(
                    "entry {n} of the log in `{}` does not exist, but later ones do; restore it",
                    self.shared.folder
                ))
            };
            let entries = read.into_iter().map(|(n, entry)| entry?.ok_or_else(|| missing(n)));
            return entries.collect();
        }
    }

    /// Returns entry `n`, if it exists.
    ///
    /// # Errors
    /// `Data` if it was removed, since it was older than the retention of the source; errors of the store.
    pub async fn entry(&self, n: u64) -> Result<Option<Entry>> {
        let entry = self.read_entry(n).await?;
        let first = if self.shared.rules.looks_at_the_start() { self.first().await? } else { 1 };
        if n < first && n > 0 {
            return Err(QueryError::data(format!(
                "entry {n} of the log in `{}` was removed, because it was older than the retention of the stream; its first \
                 entry is {first}",
                self.shared.folder
            )));
        }
        Ok(entry)
    }

    /// Reads entry `n`, which counts only if the log begins before it afterwards.
    pub(crate) async fn read_entry(&self, n: u64) -> Result<Option<Entry>> {
        let path = self.entry_path(n);
        match object::read(&self.shared.store, &path).await? {
            Some(bytes) => {
                let entry: Entry = decode(&path, &bytes)?;
                check_number(&path, n, entry.n)?;
                Ok(Some(entry))
            }
            None => Ok(None),
        }
    }

    /// Returns up to `limit` entries after entry `n`, in ascending order.
    pub async fn entries_after(&self, n: u64, limit: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while entries.len() < limit {
            let Some(entry) = self.entry(n + 1 + entries.len() as u64).await? else { break };
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reads the segment that an entry names. Only the rows of `sealed` count.
    ///
    /// # Errors
    /// `Data` if it is missing or damaged.
    pub async fn segment(&self, sealed: &Sealed) -> Result<Segment> {
        let path = self.segment_path(&sealed.segment);
        match object::read(&self.shared.store, &path).await? {
            Some(bytes) => Segment::decode(&path, &bytes),
            None => Err(QueryError::data(format!("`{path}`, which the log names, does not exist; restore it"))),
        }
    }

    /// Brings `index` up to the newest entry.
    async fn catch_up<'a>(&self, index: &'a mut Option<Index>) -> Result<&'a mut Index> {
        let times = self.shared.spec.times;
        if index.is_none() {
            *index = Some(self.load(false).await?);
        }
        loop {
            let loaded = index.as_mut().expect("the index was loaded above");
            let after = loaded.head;
            while let Some(entry) = self.read_entry(loaded.head + 1).await? {
                loaded.apply(&entry, times);
            }
            if !self.shared.rules.looks_at_the_start() || self.first().await? <= after + 1 {
                break;
            }
            // Some of the entries that follow were removed.
            *index = Some(self.load(false).await?);
        }
        let loaded = index.as_mut().expect("the index was loaded above");
        self.shared.newest_ms.fetch_max(loaded.at_ms(), Ordering::SeqCst);
        Ok(loaded)
    }

    /// Reads the entries that say which segments are not sealed and, with `keys`, which of their rows count, from the newest
    /// backwards.
    async fn load(&self, keys: bool) -> Result<Index> {
        loop {
            let (head, first) = self.extent(0).await?;
            let loaded = self.load_from(head, first, keys).await;
            if self.first().await? == first {
                return loaded;
            }
        }
    }

    /// Reads entries from `head` backwards, at most to `first`.
    async fn load_from(&self, head: u64, first: u64, keys: bool) -> Result<Index> {
        let times = self.shared.spec.times;
        let mut next = head;
        let mut entries: Vec<Entry> = Vec::new();
        while next >= first {
            let back = (0..READS_AT_ONCE as u64).map_while(|back| next.checked_sub(back)).filter(|n| *n >= first);
            let reads: Vec<_> = back.map(|n| self.read_entry(n)).collect();
            let batch: Vec<Option<Entry>> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
            next = next.saturating_sub(READS_AT_ONCE as u64);
            let missing = || {
                QueryError::data("an entry of the log existed and does not any more").at(self.shared.folder.to_string())
            };
            entries.extend(batch.into_iter().map(|entry| entry.ok_or_else(missing)).collect::<Result<Vec<_>>>()?);
            let oldest = entries.last().map_or(i64::MIN, |entry| entry.at_ms);
            if oldest < entries.first().map_or(i64::MIN, |newest| times.entries_from_ms(newest, keys)) {
                break;
            }
        }
        let mut index = Index::new(keys);
        index.head = first - 1;
        for entry in entries.iter().rev() {
            index.apply(entry, times);
        }
        Ok(index)
    }

    /// Reads the header of segment `name`.
    async fn header(&self, name: String) -> Result<Found> {
        let path = self.segment_path(&name);
        let mut bytes = self.shared.store.get_range(&path, 0..HEADER_READ_BYTES).await?;
        let end = segment::header_end(&path, &bytes)?;
        if end > bytes.len() {
            bytes = self.shared.store.get_range(&path, 0..end as u64).await?;
        }
        let header = bytes.get(..end);
        let header = header.ok_or_else(|| QueryError::new(ErrorKind::Data, format!("`{path}` ends in its header")))?;
        Ok(Found { parts: segment::parts(&path, header)?, name })
    }

    fn inbox(&self) -> Path {
        self.shared.folder.clone().join("inbox")
    }

    /// Returns the path, in the store, of the segment that an entry names.
    pub fn path_of(&self, sealed: &Sealed) -> Path {
        self.segment_path(&sealed.segment)
    }

    pub(crate) fn segment_path(&self, name: &str) -> Path {
        self.inbox().join(names::inbox_part(name)).join(name)
    }

    pub(crate) fn entry_path(&self, n: u64) -> Path {
        self.shared.folder.clone().join("log").join(names::numbered(n))
    }
}
