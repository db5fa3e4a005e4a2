"""The YAML files of every command; found by scemae.config.configs_dir, imported by nobody."""
