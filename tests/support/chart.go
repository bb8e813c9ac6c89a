// Renders a Helm chart as `helm template` does, with the libraries that Helm itself is made of: text/template, sprig, sigs.k8s.io/yaml
// and gojsonschema. Only what the chart uses: no subcharts, hooks, lookups or sorting.
//
// chart FOLDER NAMESPACE [VALUES-FILE] < nothing > manifests; status 1 and a message where the values are not what the schema allows.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"github.com/xeipuuv/gojsonschema"
	"sigs.k8s.io/yaml"
)

type object = map[string]interface{}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: chart FOLDER NAMESPACE [VALUES-FILE]")
		os.Exit(2)
	}
	if err := render(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func render(folder, namespace string, overrides []string) error {
	values, err := read(filepath.Join(folder, "values.yaml"))
	if err != nil {
		return err
	}
	for _, path := range overrides {
		override, err := read(path)
		if err != nil {
			return err
		}
		merge(values, override)
	}
	if err := check(filepath.Join(folder, "values.schema.json"), values); err != nil {
		return err
	}
	description, err := read(filepath.Join(folder, "Chart.yaml"))
	if err != nil {
		return err
	}
	// Keys of Chart.yaml are lower case, fields of .Chart are not.
	chart := object{}
	for key, value := range description {
		chart[strings.ToUpper(key[:1])+key[1:]] = value
	}
	data := object{
		"Values":  values,
		"Chart":   chart,
		"Release": object{"Name": "remora", "Namespace": namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false, "Revision": 1},
	}

	root := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["toYaml"] = func(value interface{}) string {
		text, err := yaml.Marshal(value)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(text), "\n")
	}
	functions["include"] = func(name string, value interface{}) (string, error) {
		var text bytes.Buffer
		err := root.ExecuteTemplate(&text, name, value)
		return text.String(), err
	}
	root.Funcs(functions)

	paths, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := root.New(filepath.Base(path)).Parse(string(text)); err != nil {
			return err
		}
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var text bytes.Buffer
		if err := root.ExecuteTemplate(&text, name, data); err != nil {
			return err
		}
		// A value that is missing prints as this; Helm makes it nothing, and the chart should not count on either.
		if strings.Contains(text.String(), "<no value>") {
			return fmt.Errorf("%s: a value is missing:\n%s", name, text.String())
		}
		if filepath.Ext(name) == ".yaml" && strings.TrimSpace(text.String()) != "" {
			fmt.Printf("---\n%s\n", text.String())
		}
	}
	return nil
}

func read(path string) (object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := object{}
	return values, yaml.Unmarshal(text, &values)
}

// Maps are joined, null takes a key away, all else replaces.
func merge(into, from object) {
	for key, value := range from {
		inner, isMap := value.(object)
		present, wasMap := into[key].(object)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			merge(present, inner)
		default:
			into[key] = value
		}
	}
}

func check(schema string, values object) error {
	rules, err := os.ReadFile(schema)
	if err != nil {
		return err
	}
	text, err := json.Marshal(values)
	if err != nil {
		return err
	}
	result, err := gojsonschema.Validate(gojsonschema.NewBytesLoader(rules), gojsonschema.NewBytesLoader(text))
	if err != nil {
		return err
	}
	if result.Valid() {
		return nil
	}
	var complaints []string
	for _, complaint := range result.Errors() {
		complaints = append(complaints, complaint.String())
	}
	return errors.New(strings.Join(complaints, "; "))
}
