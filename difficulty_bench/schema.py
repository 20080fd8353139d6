"""The store's tables, and the queries that read trials back."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE studies (
    study TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL,
    definition TEXT NOT NULL, parameters INTEGER NOT NULL, metric TEXT
);
CREATE TABLE readings (
    study TEXT NOT NULL REFERENCES studies, lr_rule TEXT NOT NULL,
    task TEXT NOT NULL, settings TEXT NOT NULL, PRIMARY KEY (study, lr_rule)
);
CREATE TABLE environments (environment TEXT PRIMARY KEY, facts TEXT NOT NULL);
CREATE TABLE trials (
    identity TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES studies,
    role TEXT NOT NULL, d INTEGER NOT NULL, seed INTEGER NOT NULL, lr_scale REAL NOT NULL,
    state TEXT NOT NULL, score REAL, score_sd REAL, score_n INTEGER, reason TEXT,
    parameters INTEGER NOT NULL, steps INTEGER NOT NULL, wall_s REAL NOT NULL,
    device TEXT NOT NULL, environment TEXT NOT NULL REFERENCES environments
);
CREATE INDEX trials_by_study ON trials (study);
CREATE TABLE curves (
    identity TEXT NOT NULL REFERENCES trials, n INTEGER NOT NULL,
    step INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (identity, n)
) WITHOUT ROWID;
CREATE TABLE solutions (identity TEXT PRIMARY KEY REFERENCES trials, z BLOB NOT NULL);
CREATE TABLE quantised (
    identity TEXT NOT NULL REFERENCES trials, bits INTEGER NOT NULL, score REAL,
    PRIMARY KEY (identity, bits)
) WITHOUT ROWID;
"""
READINGS = """
SELECT study, task, definition, parameters, settings, metric
FROM readings JOIN studies USING (study) WHERE ? IN (study, '')
ORDER BY name, version, study, lr_rule
"""
TRIALS = """
SELECT identity, study, role, d, seed, lr_scale, state, score, score_sd, score_n, reason,
    parameters, steps, wall_s, device, facts
FROM trials JOIN environments USING (environment)
"""
BY_REQUEST = """
ORDER BY CASE role WHEN 'baseline' THEN 0 WHEN 'pilot' THEN 1 ELSE 2 END, d, lr_scale, seed
"""
