//! **Pure.** Finds tasks of a file that wait for each other, before any of them is submitted.

use std::collections::HashMap;

/// A task of the file: its id, and the ids that it waits for.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) waits_for: Vec<String>,
}

/// The ids along one cycle, the first of them again at the end; `None` when there is none.
///
/// Tasks that are not in the file are left out: whether they wait for one of these, only the
/// scheduler knows.
pub(super) fn find(nodes: &[Node]) -> Option<Vec<String>> {
    let places = (0..)
        .zip(nodes)
        .map(|(place, node)| (node.id.as_str(), place))
        .collect::<HashMap<_, usize>>();
    let edges = nodes
        .iter()
        .map(|node| {
            node.waits_for
                .iter()
                .filter_map(|id| places.get(id.as_str()).copied())
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    let mut seen = vec![Mark::New; nodes.len()];
    (0..nodes.len()).find_map(|start| visit(start, &edges, &mut seen)).map(|cycle| {
        cycle.into_iter().filter_map(|place| nodes.get(place)).map(|node| node.id.clone()).collect()
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    Done,
}

/// Depth first with a stack of its own: a chain may be as long as the file.
fn visit(start: usize, edges: &[Vec<usize>], seen: &mut [Mark]) -> Option<Vec<usize>> {
    if seen.get(start) != Some(&Mark::New) {
        return None;
    }
    let mut path = vec![(start, 0)];
    mark(seen, start, Mark::OnPath);
    while let Some((node, edge)) = path.last_mut() {
        let next = edges.get(*node).and_then(|all| all.get(*edge)).copied();
        *edge += 1;
        let node = *node;
        let Some(next) = next else {
            mark(seen, node, Mark::Done);
            path.pop();
            continue;
        };
        match seen.get(next) {
            Some(Mark::New) => {
                mark(seen, next, Mark::OnPath);
                path.push((next, 0));
            }
            Some(Mark::OnPath) => {
                let from = path.iter().position(|(on_path, _)| *on_path == next).unwrap_or(0);
                let cycle = path.iter().skip(from).map(|(on_path, _)| *on_path);
                return Some(cycle.chain([next]).collect());
            }
            Some(Mark::Done) | None => {}
        }
    }
    None
}

fn mark(seen: &mut [Mark], node: usize, mark: Mark) {
    if let Some(slot) = seen.get_mut(node) {
        *slot = mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edges: &[(&str, &[&str])]) -> Option<String> {
        let nodes = edges.iter().map(|(id, waits_for)| Node {
            id: (*id).into(),
            waits_for: waits_for.iter().map(|id| (*id).into()).collect(),
        });
        find(&nodes.collect::<Vec<_>>()).map(|cycle| cycle.join(" "))
    }

    #[test]
    fn a_cycle_is_named_in_order_and_a_diamond_is_none() {
        assert_eq!(check(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])]), None);
        assert_eq!(check(&[("a", &["elsewhere"])]), None);
        assert_eq!(check(&[("x", &["a"]), ("a", &["b"]), ("b", &["a"])]).as_deref(), Some("a b a"));
        assert_eq!(check(&[("a", &["a"])]).as_deref(), Some("a a"));
    }

    #[test]
    fn a_chain_as_long_as_a_large_file_is_no_trouble() {
        let nodes =
            (0..200_000).map(|n| Node { id: n.to_string(), waits_for: vec![(n + 1).to_string()] });
        assert_eq!(find(&nodes.collect::<Vec<_>>()), None);
    }
}
