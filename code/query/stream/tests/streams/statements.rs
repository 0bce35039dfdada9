//! Random windowed statements, each with a batch statement that has the same rows.
//!
//! The batch statement joins rows with all windows, or finds sessions by window functions. It shares no code with the
//! stream.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A statement over the stream `nexmark` and its batch twin.
#[derive(Debug, Clone)]
pub(crate) struct Twin {
    pub(crate) stream: String,
    pub(crate) batch: String,
    /// Hopping windows that the batch statement joins: slide and width in milliseconds.
    pub(crate) windows: BTreeSet<(i64, i64)>,
}

#[derive(Debug, Clone, Copy)]
enum Spec {
    Hop(i64, i64),
    Session(i64),
}

impl Spec {
    fn call(self, time: Option<&str>) -> String {
        let time = time.map(|time| format!("{time}, ")).unwrap_or_default();
        match self {
            Self::Hop(slide, width) if slide == width => format!("tumble({time}interval '{width} milliseconds')"),
            Self::Hop(slide, width) => {
                format!("hop({time}interval '{slide} milliseconds', interval '{width} milliseconds')")
            }
            Self::Session(gap) => format!("session({time}interval '{gap} milliseconds')"),
        }
    }
}

fn table(slide: i64, width: i64) -> String {
    format!("windows_{slide}_{width}")
}

/// A windowed aggregate with columns `k1, k2, a1, a2, w` of which keys may be left out.
struct Grouped {
    stream: String,
    batch: String,
    keys: Vec<&'static str>,
    aggregates: Vec<&'static str>,
    windows: BTreeSet<(i64, i64)>,
}

const KEYS: &[&str] = &[
    "bid.auction % 7",
    "bid.bidder % 5",
    "bid.channel",
    "CASE WHEN bid.price > 3000 THEN 'high' ELSE NULL END",
    "upper(bid.channel)",
    "bid.price > 1000",
];

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(bid.price)",
    "sum(bid.price)",
    "min(bid.price)",
    "max(bid.channel)",
    "avg(bid.price)",
    "count(distinct bid.bidder)",
    "stddev(bid.price)",
    "sum(bid.price) FILTER (WHERE bid.auction % 3 = 0)",
    "bit_xor(bid.auction)",
    "array_agg(distinct bid.channel order by bid.channel)",
    "median(bid.price)",
    "first_value(bid.bidder order by bid.price, bid.auction, bid.bidder)",
    "string_agg(distinct bid.channel, ',' order by bid.channel)",
    "max(date_time)",
    "approx_distinct(bid.auction)",
];

const CONDITIONS: &[&str] = &[
    "bid IS NOT NULL",
    "bid.price > 500",
    "bid IS NOT NULL AND bid.channel <> 'Apple'",
    "bid.auction % 2 = 1",
    "bid IS NOT NULL AND date_time > to_timestamp(25)",
];

fn spec(rng: &mut StdRng, sessions: bool) -> Spec {
    match rng.random_range(0..if sessions { 8 } else { 6 }) {
        0 | 1 => {
            let width = *[1000, 2000, 5000, 10_000, 333].choose(rng).expect("not empty");
            Spec::Hop(width, width)
        }
        2..=4 => {
            let slide = *[500, 1000, 2000, 3000].choose(rng).expect("not empty");
            Spec::Hop(slide, slide * rng.random_range(2..6))
        }
        5 => {
            // The last two have 20 and 65 slices.
            let hops = [(2000, 5000), (3000, 7000), (700, 1000), (250, 5000), (200, 6500)];
            let (slide, width) = *hops.choose(rng).expect("not empty");
            Spec::Hop(slide, width)
        }
        _ => Spec::Session(*[100, 300, 1000, 2500].choose(rng).expect("not empty")),
    }
}

fn grouped(rng: &mut StdRng, spec: Spec) -> Grouped {
    let (key_count, aggregate_count) = (rng.random_range(0..3), rng.random_range(1..4));
    let keys: Vec<&'static str> = KEYS.choose_multiple(rng, key_count).copied().collect();
    let aggregates: Vec<&'static str> = AGGREGATES.choose_multiple(rng, aggregate_count).copied().collect();
    let condition = *CONDITIONS.choose(rng).expect("not empty");
    let mut select: Vec<String> = keys.iter().enumerate().map(|(i, key)| format!("{key} AS k{i}")).collect();
    select.extend(aggregates.iter().enumerate().map(|(i, aggregate)| format!("{aggregate} AS a{i}")));
    let group: Vec<String> = (1..=keys.len()).map(|position| position.to_string()).collect();
    let having = if rng.random_bool(0.2) { " HAVING count(*) > 2" } else { "" };
    let list = select.join(", ");
    let with_group = |window: &str| {
        let mut all = group.clone();
        all.push(window.to_string());
        all.join(", ")
    };
    // The three syntaxes of the same statement.
    let stream = match rng.random_range(0..3) {
        0 => format!(
            "SELECT {list}, {} AS w FROM nexmark WHERE {condition} GROUP BY {}{having}",
            spec.call(None),
            with_group("w")
        ),
        1 => {
            let from = match spec {
                Spec::Hop(slide, width) if slide == width => {
                    format!("TUMBLE(nexmark, date_time, INTERVAL '{width} milliseconds')")
                }
                Spec::Hop(slide, width) => format!(
                    "HOP(TABLE nexmark, DESCRIPTOR(date_time), INTERVAL '{slide} milliseconds', \
                     INTERVAL '{width} milliseconds')"
                ),
                Spec::Session(gap) => format!("SESSION(nexmark, date_time, INTERVAL '{gap} milliseconds')"),
            };
            format!(
                "SELECT {list}, named_struct('start', window_start, 'end', window_end) AS w FROM {from} WHERE {condition} \
                 GROUP BY {}{having}",
                with_group("window_start, window_end")
            )
        }
        _ => format!(
            "SELECT {list}, w FROM (SELECT *, {} AS w FROM nexmark WHERE {condition}) AS nexmark GROUP BY {}{having}",
            spec.call(None),
            with_group("w")
        ),
    };
    let mut windows = BTreeSet::new();
    let batch = match spec {
        Spec::Hop(slide, width) => {
            windows.insert((slide, width));
            format!(
                "SELECT {list}, win AS w FROM (SELECT nexmark.*, win FROM nexmark JOIN {} AS windows ON \
                 date_time >= win.start AND date_time < win.\"end\") AS nexmark WHERE {condition} GROUP BY {}{having}",
                table(slide, width),
                with_group("win")
            )
        }
        Spec::Session(gap) => {
            let partition: Vec<String> = (0..keys.len()).map(|i| format!("k{i}")).collect();
            let by = if keys.is_empty() { String::new() } else { format!("PARTITION BY {} ", partition.join(", ")) };
            let keyed: Vec<String> = keys.iter().enumerate().map(|(i, key)| format!("{key} AS k{i}")).collect();
            let keyed = if keys.is_empty() { String::new() } else { format!(", {}", keyed.join(", ")) };
            let mut outer: Vec<String> = partition.clone();
            outer.extend(aggregates.iter().enumerate().map(|(i, aggregate)| format!("{aggregate} AS a{i}")));
            let mut all = partition.clone();
            all.push("sid".to_string());
            format!(
                "SELECT {}, named_struct('start', min(date_time), 'end', max(date_time) + interval '{gap} milliseconds') \
                 AS w FROM (SELECT *, sum(fresh) OVER ({by}ORDER BY date_time ROWS UNBOUNDED PRECEDING) AS sid FROM \
                 (SELECT *, CASE WHEN date_time - lag(date_time) OVER ({by}ORDER BY date_time) <= \
                 interval '{gap} milliseconds' THEN 0 ELSE 1 END AS fresh FROM (SELECT nexmark.*{keyed} FROM nexmark WHERE \
                 {condition}))) AS nexmark GROUP BY {}{having}",
                outer.join(", "),
                all.join(", ")
            )
        }
    };
    Grouped { stream, batch, keys, aggregates, windows }
}

/// Returns the statement of `seed`.
pub(crate) fn twin(rng: &mut StdRng) -> Twin {
    match rng.random_range(0..12) {
        0 | 1 => {
            let inner_spec = spec(rng, true);
            let inner = grouped(rng, inner_spec);
            Twin { stream: inner.stream, batch: inner.batch, windows: inner.windows }
        }
        2 | 3 => over_one(rng, |rng, inner| {
            // Top N of each window, without ties.
            let mut order: Vec<String> = (0..inner.aggregates.len()).map(|i| format!("a{i} DESC NULLS LAST")).collect();
            order.extend((0..inner.keys.len()).map(|i| format!("k{i} NULLS FIRST")));
            let function = *["row_number()", "rank()", "dense_rank()"].choose(rng).expect("not empty");
            let limit = rng.random_range(1..4);
            format!(
                "SELECT * FROM (SELECT *, {function} OVER (PARTITION BY w ORDER BY {}) AS r FROM ({{}}) AS g) \
                 WHERE r <= {limit}",
                order.join(", ")
            )
        }),
        4 => over_one(rng, |_, _| {
            "SELECT w, count(*) AS n, max(a0) AS m FROM ({}) AS g GROUP BY w HAVING count(*) >= 1".to_string()
        }),
        5 => over_one(rng, |_, _| {
            "SELECT a0, w.start AS s, w.\"end\" AS e FROM ({}) AS g WHERE w.\"end\" > to_timestamp(27)".to_string()
        }),
        6 => over_one(rng, |_, _| "SELECT DISTINCT w, a0 IS NULL AS missing FROM ({}) AS g".to_string()),
        7 | 8 => {
            // Two aggregates of the same window joined.
            let common = spec(rng, false);
            let (left, right) = (grouped(rng, common), grouped(rng, common));
            let join = *["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"].choose(rng).expect("not empty");
            let on =
                *["l.w = r.w", "l.w.start = r.w.start", "l.w.\"end\" = r.w.\"end\""].choose(rng).expect("not empty");
            let outer = |l: &str, r: &str| {
                format!("SELECT l.a0 AS la, r.a0 AS ra, l.w AS lw, r.w AS rw FROM ({l}) AS l {join} ({r}) AS r ON {on}")
            };
            Twin {
                stream: outer(&left.stream, &right.stream),
                batch: outer(&left.batch, &right.batch),
                windows: left.windows.union(&right.windows).copied().collect(),
            }
        }
        9 => chained(rng),
        10 => raw_join(rng),
        _ => raw_ranks(rng),
    }
}

fn over_one(rng: &mut StdRng, outer: impl Fn(&mut StdRng, &Grouped) -> String) -> Twin {
    let inner_spec = spec(rng, true);
    let inner = grouped(rng, inner_spec);
    let outer = outer(rng, &inner);
    Twin {
        stream: outer.replace("{}", &inner.stream),
        batch: outer.replace("{}", &inner.batch),
        windows: inner.windows,
    }
}

/// A window over the rows of closed windows, whose time is the last moment of the window.
fn chained(rng: &mut StdRng) -> Twin {
    let first = spec(rng, false);
    let inner = grouped(rng, first);
    let Spec::Hop(slide, width) = spec(rng, false) else { unreachable!("this form uses no sessions") };
    let second = Spec::Hop(slide, width).call(None);
    let stream =
        format!("SELECT count(*) AS n, max(w.start) AS last, {second} AS w2 FROM ({}) AS g GROUP BY w2", inner.stream);
    let batch = format!(
        "SELECT count(*) AS n, max(w.start) AS last, win AS w2 FROM ({}) AS g JOIN {} AS windows ON \
         w.\"end\" - interval '1 nanosecond' >= win.start AND w.\"end\" - interval '1 nanosecond' < win.\"end\" GROUP BY win",
        inner.batch,
        table(slide, width)
    );
    let mut windows = inner.windows;
    windows.insert((slide, width));
    Twin { stream, batch, windows }
}

fn raw(spec: Spec, kind: &str, columns: &str) -> (String, String, (i64, i64)) {
    let Spec::Hop(slide, width) = spec else { unreachable!("this form uses no sessions") };
    let function = match slide == width {
        true => format!("TUMBLE(nexmark, date_time, INTERVAL '{width} milliseconds')"),
        false => format!("HOP(nexmark, date_time, INTERVAL '{slide} milliseconds', INTERVAL '{width} milliseconds')"),
    };
    let stream = format!("SELECT {columns}, window_start, window_end FROM {function} WHERE {kind}");
    let batch = format!(
        "SELECT {columns}, win.start AS window_start, win.\"end\" AS window_end FROM nexmark JOIN {} AS windows ON \
         date_time >= win.start AND date_time < win.\"end\" WHERE {kind}",
        table(slide, width)
    );
    (stream, batch, (slide, width))
}

/// Raw rows of two kinds joined within a window.
fn raw_join(rng: &mut StdRng) -> Twin {
    let common = spec(rng, false);
    let (ls, lb, window) =
        raw(common, "bid IS NOT NULL AND bid.price > 2000", "bid.auction AS auction, bid.price AS price");
    let (rs, rb, _) = raw(common, "auction IS NOT NULL", "auction.id AS id, auction.seller AS seller");
    let join = *["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(rng).expect("not empty");
    let on = "l.window_start = r.window_start AND l.window_end = r.window_end AND l.auction % 20 = r.id % 20";
    let outer = |l: &str, r: &str| {
        format!(
            "SELECT l.auction, l.price, r.seller, l.window_start AS ls, r.window_start AS rs FROM ({l}) AS l {join} ({r}) AS r ON {on}"
        )
    };
    Twin { stream: outer(&ls, &rs), batch: outer(&lb, &rb), windows: BTreeSet::from([window]) }
}

/// The best raw rows of each window.
fn raw_ranks(rng: &mut StdRng) -> Twin {
    let common = spec(rng, false);
    let (s, b, window) =
        raw(common, "bid IS NOT NULL", "bid.auction AS auction, bid.price AS price, bid.bidder AS bidder");
    let order = "price DESC, auction, bidder";
    let outer = |rows: &str| {
        format!(
            "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY window_start, auction % 3 ORDER BY {order}) AS r FROM \
             ({rows}) AS g) WHERE r <= 2"
        )
    };
    Twin { stream: outer(&s), batch: outer(&b), windows: BTreeSet::from([window]) }
}
