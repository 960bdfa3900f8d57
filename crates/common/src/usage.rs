//! **Pure.** What an attempt has used so far, from reports that may come twice or in any order.
//!
//! What is unset is unknown, and stays so: it is never taken for zero.

use crate::pb::ResourceUsage;

/// Adds what another report of the same attempt says. What only grows while an attempt runs is the
/// largest that was said, so that neither a repeat nor an older report changes it; of the rest the
/// report that is added counts.
#[must_use]
pub fn raise(known: ResourceUsage, said: ResourceUsage) -> ResourceUsage {
    let most = |known: Option<f64>, said: Option<f64>| match (known, measured(said)) {
        (Some(known), Some(said)) => Some(known.max(said)),
        (known, said) => said.or(known),
    };
    ResourceUsage {
        cpu_seconds: most(known.cpu_seconds, said.cpu_seconds),
        memory_peak_mb: most(known.memory_peak_mb, said.memory_peak_mb),
        memory_avg_mb: measured(said.memory_avg_mb).or(known.memory_avg_mb),
        disk_read_mb: most(known.disk_read_mb, said.disk_read_mb),
        disk_write_mb: most(known.disk_write_mb, said.disk_write_mb),
        network_tx_mb: most(known.network_tx_mb, said.network_tx_mb),
        network_rx_mb: most(known.network_rx_mb, said.network_rx_mb),
        storage_delta_mb: said
            .storage_delta_mb
            .filter(|n| n.is_finite())
            .or(known.storage_delta_mb),
    }
}

/// A number that something can have measured.
fn measured(number: Option<f64>) -> Option<f64> {
    number.filter(|n| n.is_finite() && *n >= 0.0)
}

/// The same; `None` where nothing is known.
#[must_use]
pub fn known(usage: ResourceUsage) -> Option<ResourceUsage> {
    (usage != ResourceUsage::default()).then_some(usage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = Option<f64>> {
        proptest::option::of(0.0..1e9)
    }

    prop_compose! {
        fn growing()(a in number(), b in number(), c in number(), d in number(), e in number(), f in number()) -> ResourceUsage {
            ResourceUsage {
                cpu_seconds: a, memory_peak_mb: b, disk_read_mb: c, disk_write_mb: d,
                network_tx_mb: e, network_rx_mb: f, ..ResourceUsage::default()
            }
        }
    }

    proptest! {
        #[test]
        fn order_and_repeats_of_reports_change_nothing(a in growing(), b in growing(), c in growing()) {
            let all = |reports: &[ResourceUsage]| {
                reports.iter().fold(ResourceUsage::default(), |known, said| raise(known, *said))
            };
            prop_assert_eq!(all(&[a, b, c]), all(&[c, a, b, a, c]));
            prop_assert_eq!(all(&[a]), a, "what is unset stays unset");
        }
    }

    #[test]
    fn unknown_is_not_zero_and_zero_is_not_unknown() {
        let zero = ResourceUsage { disk_read_mb: Some(0.0), ..ResourceUsage::default() };
        assert_eq!(known(ResourceUsage::default()), None);
        assert_eq!(known(zero), Some(zero));
        assert_eq!(raise(ResourceUsage::default(), zero), zero);
        let absurd = ResourceUsage {
            cpu_seconds: Some(-1.0),
            memory_avg_mb: Some(f64::NAN),
            ..ResourceUsage::default()
        };
        assert_eq!(raise(zero, absurd), zero, "what nobody can have measured");
    }

    #[test]
    fn the_newest_average_counts() {
        let average = |mb| ResourceUsage { memory_avg_mb: Some(mb), ..ResourceUsage::default() };
        assert_eq!(raise(average(9.0), average(4.0)), average(4.0));
    }
}
