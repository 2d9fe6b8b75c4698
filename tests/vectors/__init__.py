"""Test vectors of docs/on-disk-contract.md."""
