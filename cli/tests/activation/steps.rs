//! The steps for every combination of what can be inspected of a component.

use pve_tunnel_cli::activation::{
    AtDistrib, AtPath, Component, DesiredState, Diversion, Inspection, Refusal, Step, steps_for,
};
use std::path::PathBuf;

fn found(at_path: AtPath, at_distrib: AtDistrib, diversion: Diversion) -> Inspection {
    Inspection {
        at_path,
        at_distrib,
        diversion,
        unfinished: false,
        replacement: true,
    }
}

fn foreign(by: &str) -> Diversion {
    Diversion::Foreign {
        by: by.to_owned(),
        to: "/elsewhere".to_owned(),
    }
}

#[test]
fn each_state_that_a_complete_or_interrupted_run_leaves_has_its_steps() {
    use AtDistrib::{Different, Missing, Same};
    use AtPath::{File, Replacement};
    use Diversion::{None, Ours};
    use Step::{
        AddDiversion, LinkReplacement, PreserveStock, RemoveDistrib, RemoveDiversion, RemoveLink,
        RestoreStock,
    };
    let missing = AtPath::Missing;
    #[rustfmt::skip] // One row a line.
    let table: [(&str, Inspection, &[Step], &[Step]); 13] = [
        ("off", found(File, Missing, None), &[AddDiversion, PreserveStock, LinkReplacement], &[]),
        ("preserved", found(File, Same, None), &[AddDiversion, LinkReplacement], &[RemoveDistrib]),
        ("preserved, diverted", found(File, Same, Ours), &[LinkReplacement], &[RemoveDistrib, RemoveDiversion]),
        ("preserved, diverted, upgraded", found(File, Different, Ours), &[LinkReplacement], &[RestoreStock, RemoveDiversion]),
        ("on", found(Replacement, Different, Ours), &[], &[RestoreStock, RemoveDiversion]),
        ("diverted, or restored", found(File, Missing, Ours), &[PreserveStock, LinkReplacement], &[RemoveDiversion]),
        ("the diversion was removed by hand", found(Replacement, Different, None), &[AddDiversion], &[RestoreStock]),
        ("the link was removed by hand", found(missing.clone(), Different, Ours), &[LinkReplacement], &[RestoreStock, RemoveDiversion]),
        // Switching on is refused in the following states, so that the first list is empty.
        ("stock removed", found(Replacement, Missing, Ours), &[], &[RemoveLink, RemoveDiversion]),
        ("stock removed, diversion too", found(Replacement, Missing, None), &[], &[RemoveLink]),
        ("stock removed, link too", found(missing.clone(), Missing, Ours), &[], &[RemoveDiversion]),
        ("never installed", found(missing.clone(), Missing, None), &[], &[]),
        ("stray", found(File, Different, None), &[], &[]),
    ];
    for (name, found, on, off) in table {
        assert_eq!(
            steps_for(Component::Overlay, &found, DesiredState::On).unwrap_or_default(),
            on,
            "{name}, on"
        );
        assert_eq!(
            steps_for(Component::Overlay, &found, DesiredState::Off),
            Ok(off.to_vec()),
            "{name}, off"
        );
    }
}

#[test]
fn a_state_that_cannot_be_switched_on_is_refused_with_the_reason() {
    let link = AtPath::Link(PathBuf::from("/opt/Tunnel.pm"));
    #[rustfmt::skip] // One row a line.
    let table = [
        ("a diversion by another package", found(AtPath::File, AtDistrib::Missing, foreign("other")), "/elsewhere for the package other"),
        ("a local diversion", found(AtPath::File, AtDistrib::Missing, foreign("LOCAL")), "for the local administrator"),
        ("our diversion, to another path", found(AtPath::File, AtDistrib::Missing, foreign("pve-tunnel")), "/elsewhere"),
        ("a link to another file", found(link, AtDistrib::Missing, Diversion::None), "symbolic link to '/opt/Tunnel.pm'"),
        ("a directory", found(AtPath::Other, AtDistrib::Missing, Diversion::None), "is not a file"),
        ("a stray file", found(AtPath::File, AtDistrib::Different, Diversion::None), "is not diverted"),
        ("a stray file alone", found(AtPath::Missing, AtDistrib::Different, Diversion::None), "is not diverted"),
        ("a directory at .distrib", found(AtPath::File, AtDistrib::Other, Diversion::None), ".distrib is not a regular file"),
        ("not installed", found(AtPath::Missing, AtDistrib::Missing, Diversion::None), "libpve-guest-common-perl is not installed"),
        ("stock file removed", found(AtPath::Replacement, AtDistrib::Missing, Diversion::Ours), "'pve-tunnel disable' removes"),
        ("no replacement", Inspection { replacement: false, ..found(AtPath::File, AtDistrib::Missing, Diversion::None) }, "perl5/PVE/Tunnel.pm is missing"),
        ("replacement removed", Inspection { replacement: false, ..found(AtPath::Replacement, AtDistrib::Different, Diversion::Ours) }, "perl5/PVE/Tunnel.pm is missing"),
    ];
    for (name, found, expected) in table {
        let refusal = steps_for(Component::Overlay, &found, DesiredState::On)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(expected), "{name}: {refusal}");
    }
}

#[test]
fn a_component_that_is_off_is_not_changed_whatever_other_files_exist() {
    for at_path in paths()
        .into_iter()
        .filter(|at_path| *at_path != AtPath::Replacement)
    {
        for diversion in [Diversion::None, foreign("other")] {
            for at_distrib in [AtDistrib::Missing, AtDistrib::Different, AtDistrib::Other] {
                let found = found(at_path.clone(), at_distrib, diversion.clone());
                let steps = steps_for(Component::Seam, &found, DesiredState::Off);
                assert_eq!(steps, Ok(Vec::new()), "{found:?}");
            }
        }
    }
}

#[test]
fn disable_refuses_if_the_link_or_the_diversion_is_not_ours() {
    let link = AtPath::Link(PathBuf::from("/opt/Tunnel.pm"));
    for at_path in [link, AtPath::Other] {
        let found = found(at_path, AtDistrib::Different, Diversion::Ours);
        assert!(
            matches!(
                steps_for(Component::Overlay, &found, DesiredState::Off),
                Err(Refusal::ForeignLink { .. } | Refusal::PathNotAFile { .. })
            ),
            "{found:?}"
        );
    }
    let found = found(AtPath::Replacement, AtDistrib::Different, foreign("other"));
    assert!(matches!(
        steps_for(Component::Overlay, &found, DesiredState::Off),
        Err(Refusal::Diverted { .. })
    ));
}

/// For every state: the steps lead to the desired state. No step removes the file from the path or
/// loses the stock file. After an interruption behind any step, each desired state that was
/// possible before is still possible.
#[test]
fn all_steps_lead_to_the_desired_state_and_can_be_interrupted_anywhere() {
    let mut sequences = 0;
    for start in every_state() {
        for desired in [DesiredState::On, DesiredState::Off] {
            let Ok(steps) = steps_for(Component::Helper, &start, desired) else {
                continue;
            };
            sequences += 1;
            let mut now = start.clone();
            for step in &steps {
                let had_file = now.at_path != AtPath::Missing;
                let had_stock = stock_is_there(&now);
                now = after(now, *step);
                assert!(
                    !had_file || !had_stock || now.at_path != AtPath::Missing,
                    "{step:?} of {steps:?} removes the file of {start:?}"
                );
                assert_eq!(
                    stock_is_there(&now),
                    had_stock,
                    "{step:?} of {steps:?} loses the stock file of {start:?}"
                );
                for next in [DesiredState::On, DesiredState::Off] {
                    assert!(
                        steps_for(Component::Helper, &start, next).is_err()
                            || steps_for(Component::Helper, &now, next).is_ok(),
                        "{steps:?} from {start:?}, interrupted after {step:?}, cannot go to {next:?}"
                    );
                }
            }
            let reached = match desired {
                DesiredState::On => now.is_on(),
                DesiredState::Off => now.is_off(),
            };
            assert!(reached, "{steps:?} lead from {start:?} to {now:?}");
            assert!(!now.unfinished, "{steps:?} leave unfinished files");
            assert_eq!(
                steps_for(Component::Helper, &now, desired),
                Ok(Vec::new()),
                "a second run from {start:?}"
            );
        }
    }
    assert!(sequences > 40, "{sequences} sequences");
}

fn paths() -> [AtPath; 5] {
    let link = AtPath::Link(PathBuf::from("/opt/x"));
    [
        AtPath::Missing,
        AtPath::File,
        AtPath::Replacement,
        link,
        AtPath::Other,
    ]
}

fn every_state() -> Vec<Inspection> {
    let mut states = Vec::new();
    for at_path in paths() {
        for at_distrib in [
            AtDistrib::Missing,
            AtDistrib::Same,
            AtDistrib::Different,
            AtDistrib::Other,
        ] {
            // Only a regular file can have a second name.
            if at_distrib == AtDistrib::Same && at_path != AtPath::File {
                continue;
            }
            for diversion in [Diversion::None, Diversion::Ours, foreign("other")] {
                for unfinished in [false, true] {
                    states.push(Inspection {
                        unfinished,
                        ..found(at_path.clone(), at_distrib, diversion.clone())
                    });
                }
            }
        }
    }
    states
}

fn stock_is_there(found: &Inspection) -> bool {
    found.at_path == AtPath::File
        || matches!(found.at_distrib, AtDistrib::Same | AtDistrib::Different)
}

/// The state after a step.
fn after(mut now: Inspection, step: Step) -> Inspection {
    match step {
        Step::CleanUp => now.unfinished = false,
        Step::PreserveStock => now.at_distrib = AtDistrib::Same,
        Step::AddDiversion => now.diversion = Diversion::Ours,
        Step::RemoveDiversion => now.diversion = Diversion::None,
        Step::LinkReplacement => {
            now.at_path = AtPath::Replacement;
            now.at_distrib = AtDistrib::Different;
        }
        // Renaming one name of a file to another name of the same file leaves both.
        Step::RestoreStock if now.at_distrib == AtDistrib::Same => {}
        Step::RestoreStock => {
            now.at_path = AtPath::File;
            now.at_distrib = AtDistrib::Missing;
        }
        Step::RemoveDistrib => now.at_distrib = AtDistrib::Missing,
        Step::RemoveLink => now.at_path = AtPath::Missing,
    }
    now
}
